"""`python -m dist_plm.train`: train an embedding, or resume a run; on several ranks under torchrun."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from dist_plm import __version__
from dist_plm.cli import ConfigParser, config_of, config_parser, run_command
from dist_plm.config import Config
from dist_plm.distributed.environment import place, speaks
from dist_plm.errors import UserError

if TYPE_CHECKING:
    from dist_plm.distributed.world import World


def command_line() -> ConfigParser:
    """The argument parser of the command, which the Slurm launcher uses too."""
    parser = config_parser("train", "Train a retrieval embedding from unlabelled images. Rerun the command to resume.")
    parser.add_argument("--plan", action="store_true", help="print time, memory and disk that the run needs, and exit")
    parser.add_argument(
        "--images_per_second", type=float, default=0.0,
        help="training rate of all ranks for --plan, instead of a measurement on this machine",
    )  # fmt: skip
    parser.add_argument("--force_resume", action="store_true", help="resume the run in run_dir with changed settings")
    parser.add_argument("--profile", action="store_true", help="profile a few steps: time by part, and a trace")
    return parser


def main(*, advise: bool = True) -> int:
    """Parse, check, train. Exit status 0 done, 1 failure, 2 usage error, 75 preempted with a checkpoint.

    Args:
        advise: Whether to print the network to use and the next commands at the end.
    """
    parser = command_line()
    parsed = parser.parse_args()
    if parsed.images_per_second < 0:
        raise UserError(f"--images_per_second is {parsed.images_per_second:g}: a positive number, or 0 to measure")
    world_size = place().size
    config = checked_config(parser, parsed, world_size)
    if parsed.plan:
        from dist_plm.training.resources import estimate

        estimate(config, world_size, images_per_second=parsed.images_per_second)
        return 0
    return _train(config, force=parsed.force_resume, profile=parsed.profile, advise=advise)


def checked_config(parser: ConfigParser, parsed: Namespace, world_size: int, *, build: bool = True) -> Config:
    """The checked configuration of a run; the demo's data set is built if it is missing.

    Args:
        build: False makes a missing demo data set an error.

    Raises:
        UserError: The run can't start.
    """
    from dist_plm.checks import ask_for_settings, check, check_settings
    from dist_plm.model.own_backbone import allow
    from dist_plm.model.preprocessing import with_filter
    from dist_plm.training.begun import as_begun

    config = config_of(parser, parsed)
    config.views = with_filter(config.model, config.views)
    config, taken = as_begun(config, parser.given)
    if taken and speaks():
        listed = ", ".join(f"{key} {value}" for key, value in taken.items())
        print(f"taken from {config.run_dir}, not set by a file or an option: {listed}", file=sys.stderr)
    if "model.backbone" not in taken:  # code that only a run directory names is not imported
        allow(config.model.backbone)
    check_settings(config, world_size)
    if build:
        from dist_plm.datasets.on_demand import build_if_missing

        build_if_missing(config.data, config.runtime.timeout_seconds)
    check(config, world_size)
    ask_for_settings(config, {*parser.given, *taken})
    return config


def _train(config: Config, *, force: bool, profile: bool, advise: bool) -> int:
    from dist_plm.checks import check_settings
    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.distributed.device import set_arithmetic
    from dist_plm.distributed.preemption import PREEMPTED, Preempted, Preemption
    from dist_plm.distributed.torchrun import leave_status
    from dist_plm.distributed.world import RankFailure
    from dist_plm.evaluation.deployment import deployment, summary
    from dist_plm.report.at_end import report_at_end
    from dist_plm.telemetry.progress import Display
    from dist_plm.training.auto_precision import resolve_precision
    from dist_plm.training.opened_run import open_run
    from dist_plm.training.trainer import Trainer

    with Preemption() as preemption:
        world = connect(config.runtime, preemption)
        display, status = Display(world), 0
        try:
            config, reason = resolve_precision(config, world)
            check_settings(config, world.size)  # a stored precision replaces one that was checked
            reproducible = config.runtime.strategy == "reproducible"
            set_arithmetic(precision=config.train.precision, reproducible=reproducible, device=world.device)
            greeting = _detected(config, world, reason)
            with open_run(config, world, force=force) as opened:
                if opened.finished:
                    display.say(f"{opened.directory.path} is complete at step {opened.at.step}")
                else:
                    Trainer(opened, display, greeting=greeting, profile=profile).run()
        except Preempted as reason:
            display.say(str(reason))
            status = PREEMPTED
        except RankFailure as failure:
            display.close()
            print(line := f"rank {world.rank}: {failure}", file=sys.stderr, flush=True)
            leave_status(1, line)
            os._exit(1)  # destroying the process group would wait for the dead rank
        finally:
            display.close()
            if world.health:  # a heartbeat during interpreter shutdown ends the process with SIGABRT
                world.health.close()
        disconnect(world)
    if not status and world.is_first and config.train.report:
        report_at_end(Path(config.run_dir), config.model.backbone)
    if not status and world.is_first and advise:
        print(summary(deployment(Path(config.run_dir), config), config), file=sys.stderr, flush=True)
    return status


def _detected(config: Config, world: "World", precision_reason: str) -> str:
    """Startup message: detected hardware and the choices derived from it."""
    import torch

    from dist_plm.data.opening import manifest_of
    from dist_plm.index.flat import describe
    from dist_plm.index.placement import place_run
    from dist_plm.methods import is_searched
    from dist_plm.training.resources import batch_arithmetic

    if world.device.type == "cuda":
        device = f"{torch.cuda.get_device_name(world.device)} with NCCL"
    else:
        device = f"CPU with gloo ({'as configured' if config.runtime.device == 'cpu' else 'no GPU found'})"
    index = ""
    if is_searched(config):
        count = manifest_of(config.data).splits[config.data.train_split].samples
        placement = place_run(config, count, world.size)
        index = f"; {placement.describe(config.index, count, config.model.wide_dim or config.model.dim)}"
    return (
        f"dist_plm {__version__}, torch {torch.__version__}: {world.size} rank(s) on {device}, "
        f"{torch.get_num_threads()} compute thread(s) each\n"
        f"precision: {config.train.precision} ({precision_reason})\n"
        f"batch: {batch_arithmetic(config, world.size)}\n"
        f"nearest neighbours: {describe(config.index.backend, world.device)}{index}"
        + ("\nkernels: compiled at the first step, which takes minutes" if config.runtime.compile else "")
    )


if __name__ == "__main__":
    run_command(main)
