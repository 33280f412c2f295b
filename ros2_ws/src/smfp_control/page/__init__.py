# SPDX-License-Identifier: Apache-2.0
"""The live page: a robot's topics on one side, viser's scene and panel on the other."""
