# SPDX-License-Identifier: Apache-2.0
"""Training tasks; importing this package makes their gymnasium ids known."""

import gymnasium

REACH_ID = "smfp/Reach-v0"
REACH_STEPS = 250
PUSH_ID = "smfp/Push-v0"
PUSH_STEPS = 300
# id: (entry point, steps to the time limit)
_TASKS = {
    REACH_ID: ("smfp_sim.tasks.reach:ReachEnv", REACH_STEPS),
    "smfp/ReachAround-v0": ("smfp_sim.tasks.reach_around:ReachAroundEnv", REACH_STEPS),
    "smfp/ReachPose-v0": ("smfp_sim.tasks.reach_pose:ReachPoseEnv", REACH_STEPS),
    PUSH_ID: ("smfp_sim.tasks.push:PushEnv", PUSH_STEPS),
    "smfp/PointAround-v1": ("smfp_sim.tasks.around:PointAroundEnv", 12),
}


def register() -> None:
    """Register the tasks with gymnasium; repeated calls change nothing."""
    for name, (entry_point, steps) in _TASKS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=steps)


register()
