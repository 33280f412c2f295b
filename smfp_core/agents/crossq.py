# SPDX-License-Identifier: Apache-2.0
"""CrossQ (Bhatt et al., arXiv 1902.05605): SAC without target networks.

The critics normalise with BatchRenorm, over one joint batch of (s, a) and (s', a')
(``CrossQTd``); the actor learns after every third update of the critics. The rest is SAC's
``learn``. CrossQ also normalises inside its actor; here observations are normalised once, before
both networks, and the actor is the one that SAC has.
"""

from __future__ import annotations

from smfp_core.agents.sac import SacAgent
from smfp_core.td_learning import CrossQTd, TdLearner


class CrossQAgent(SacAgent):
    """SAC with CrossQ's critics and delayed policy."""

    POLICY_DELAY = 3

    def make_td(self) -> TdLearner:
        """Critics with BatchRenorm and no targets."""
        return CrossQTd(self.config, self.n_obs, self.n_act)
