# SPDX-License-Identifier: Apache-2.0
"""Comparing agents: plan.py, runs.py (or cluster.py), results.py, statistics.py, report.py."""
