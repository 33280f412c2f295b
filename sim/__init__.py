# SPDX-License-Identifier: Apache-2.0
"""Robot models, the simulated arm and the training tasks. Modules are imported by name.

The gymnasium id ``smfp/Reach-v0`` is announced to gymnasium by this distribution's entry point
(group ``gymnasium.envs``), so that nothing here imports gymnasium, which a robot's computer lacks.
"""
