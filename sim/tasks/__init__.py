# SPDX-License-Identifier: Apache-2.0
"""Training tasks; importing this package makes their gymnasium ids known."""

import gymnasium

REACH_ID = "smfp/Reach-v0"
REACH_STEPS = 250


def register() -> None:
    """Register the tasks with gymnasium; repeated calls change nothing."""
    if REACH_ID not in gymnasium.registry:
        gymnasium.register(
            REACH_ID,
            entry_point="smfp_sim.tasks.reach:ReachEnv",
            max_episode_steps=REACH_STEPS,
        )


register()
