# SPDX-License-Identifier: Apache-2.0
"""Settings that libraries read when they are first imported: import this before all of them."""

import os
import sys

# Workers of numerical libraries that spin would take the cores that the deadlines need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The nodes draw nothing; without this MuJoCo loads window and graphics libraries.
os.environ.setdefault("MUJOCO_GL", "disabled")
# Message classes load the package that generates message classes, and with it a parser: 8 MB and
# 0.1 s. It is written to do without that part, as where only the messages are installed.
sys.modules.setdefault("rosidl_generator_py.generate_py_impl", None)  # type: ignore[arg-type]
