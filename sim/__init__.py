# SPDX-License-Identifier: Apache-2.0
"""Robot models, the simulated arm and the training tasks.

Where gymnasium has been imported before, importing this package registers the tasks with it
(``smfp/Reach-v0``); otherwise ``import smfp_sim.tasks`` does.
"""

import sys

# A robot's process uses smfp_sim.arm and must neither need gymnasium nor pay for importing it.
if "gymnasium" in sys.modules:
    from smfp_sim import tasks as tasks
