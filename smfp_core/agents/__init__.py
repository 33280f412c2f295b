# SPDX-License-Identifier: Apache-2.0
"""Learning algorithms, one a file, behind one interface: act, update, state, restore."""
