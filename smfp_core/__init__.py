# SPDX-License-Identifier: Apache-2.0
"""Stochastic MeanFlow Policies: specifications, the policy file, and their training."""
