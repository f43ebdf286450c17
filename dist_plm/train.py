"""`python -m dist_plm.train`: train an embedding, or go on with it. Under torchrun on all ranks, alone without it."""

import os
import sys
from typing import TYPE_CHECKING

from dist_plm import __version__
from dist_plm.cli import config_of, config_parser, run_command
from dist_plm.config import Config

if TYPE_CHECKING:
    from dist_plm.runtime.world import World


def main() -> int:
    """Parse, check, train. Status 0 done, 1 failure, 2 wrong usage, 75 preempted and saved."""
    parser = config_parser(
        "train", "Train a retrieval embedding from unlabelled images. The same command again resumes."
    )
    parser.add_argument("--plan", action="store_true", help="print what the run would need, and exit")
    parsed = parser.parse_args()
    config = config_of(parser, parsed)

    from dist_plm.checks import check

    check(config, int(os.environ.get("WORLD_SIZE", "1")))
    if parsed.plan:
        from dist_plm.estimate import estimate

        estimate(config, int(os.environ.get("WORLD_SIZE", "1")))
        return 0
    return _train(config)


def _train(config: Config) -> int:
    from dist_plm.runtime.preemption import PREEMPTED, Preemption
    from dist_plm.runtime.progress import Display
    from dist_plm.runtime.world import RankFailure, connect, disconnect
    from dist_plm.trainer import Preempted, Trainer

    with Preemption() as preemption:
        world = connect(config.runtime)
        display = Display(world)
        try:
            Trainer(config, world, display, preemption, greeting=_detected(config, world)).run()
        except Preempted as reason:
            display.say(str(reason))
            return PREEMPTED
        except RankFailure as failure:
            display.close()
            print(f"rank {world.rank}: {failure}", file=sys.stderr, flush=True)
            os._exit(1)  # leaving the process group in order would wait for the dead
        finally:
            display.close()
        disconnect(world)
    return 0


def _detected(config: Config, world: "World") -> str:
    """What was found on this machine and what follows from it, said once."""
    import torch

    from dist_plm.estimate import batch_arithmetic
    from dist_plm.index.flat import describe

    if world.device.type == "cuda":
        device = f"{torch.cuda.get_device_name(world.device)} with NCCL"
    else:
        device = f"CPU with gloo ({'as configured' if config.runtime.device == 'cpu' else 'no GPU found'})"
    return (
        f"dist_plm {__version__}, torch {torch.__version__}: {world.size} rank(s) on {device}, "
        f"{torch.get_num_threads()} compute thread(s) each\n"
        f"batch: {batch_arithmetic(config, world.size)}\n"
        f"nearest neighbours: {describe(config.runtime.index, world.device)}"
    )


if __name__ == "__main__":
    run_command(main)
