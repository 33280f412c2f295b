# SPDX-License-Identifier: Apache-2.0
"""Small experiments that show what the policy class can do."""
