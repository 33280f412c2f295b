# SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes that drive an arm with a policy file, and the simulated robot beside them."""
