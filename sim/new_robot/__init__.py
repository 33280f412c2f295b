# SPDX-License-Identifier: Apache-2.0
"""Draft a robot's YAML from its model: ``python -m smfp_sim.new_robot``."""
