"""What holds for every test, set before torch is first imported."""

import os

# One thread for each pool of OpenMP. The tensors here are tiny, and pytest-xdist keeps the cores busy: a second thread
# has nothing to do but spin, which made 28 CPU seconds out of 3 (eight of tests/unit/test_ablations.py, two cores).
os.environ["OMP_NUM_THREADS"] = "1"
