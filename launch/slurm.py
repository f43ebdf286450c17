"""`python launch/slurm.py` from a checkout: the command `python -m dist_plm.slurm`."""

import sys
from pathlib import Path

# A checkout works without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dist_plm.slurm.__main__ import main, run_command

if __name__ == "__main__":
    run_command(main)
