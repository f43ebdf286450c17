"""What the server of tests/commands.py imports before it forks: a rank then starts in half a second of CPU time.

torch imports `torch._dynamo` when the first optimiser is made, which takes .6 s, and DeepSpeed takes 1.1 s.
"""

import gc
import importlib

from PIL import Image

from benchmarks.common import PRELOAD

for name in (*PRELOAD, "tests.end_to_end.conftest"):
    importlib.import_module(name)
Image.init()
# Children would copy every page that their garbage collector marks: .3 s each.
gc.collect()
gc.freeze()
