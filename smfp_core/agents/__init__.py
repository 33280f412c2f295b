# SPDX-License-Identifier: Apache-2.0
"""The learning algorithms, each readable in its own file."""

from smfp_core.agents.base import Agent
from smfp_core.agents.crossq import CrossQAgent
from smfp_core.agents.flow import FlowAgent
from smfp_core.agents.sac import SacAgent
from smfp_core.agents.smfp import SmfpAgent
from smfp_core.agents.td3 import Td3Agent
from smfp_core.config import TrainConfig

AGENTS: dict[str, type[Agent]] = {
    "smfp": SmfpAgent,
    "flow": FlowAgent,
    "sac": SacAgent,
    "td3": Td3Agent,
    "crossq": CrossQAgent,
}


def make_agent(config: TrainConfig, n_obs: int, n_act: int) -> Agent:
    """The agent that ``config.agent`` names."""
    return AGENTS[config.agent](config, n_obs, n_act)
