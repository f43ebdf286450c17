"""`python shards/verify.py` from a checkout: the command `python -m dist_plm.datasets.verify`."""

import sys
from pathlib import Path

# A checkout works without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dist_plm.datasets.verify import main

if __name__ == "__main__":
    sys.exit(main())
