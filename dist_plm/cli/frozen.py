"""Options of commands that take a pretrained network in place of a trained one."""

import argparse
from typing import get_args, get_type_hints

from dist_plm.cli.parsers import location
from dist_plm.config import ModelConfig
from dist_plm.errors import UserError


def add_frozen_options(parser: argparse.ArgumentParser) -> None:
    """`--backbone` and what belongs to it, beside a `--checkpoint` that may be left out."""
    group = parser.add_argument_group("without training, in place of --checkpoint")
    group.add_argument("--backbone", default="", help="timm/NAME, or any other model.backbone")
    group.add_argument("--weights", type=location, default="", help="pretrained, imagenet, or a file; as model.weights")
    poolings = get_args(get_type_hints(ModelConfig)["pooling"])
    group.add_argument("--pooling", choices=poolings, help="as model.pooling (the network's own by default)")
    group.add_argument("--size", type=int, default=0, help="side of the centre crop, pixels (pretraining's by default)")
    group.add_argument("--resize", type=int, default=0, help="shorter side before the crop (pretraining's share)")
    group.add_argument(
        "--whiten", type=location, metavar="SHARDS", help="whiten the features by the train split of this data set"
    )
    group.add_argument("--dim", type=int, default=128, help="dimension after whitening")


def add_code_option(parser: argparse.ArgumentParser) -> None:
    """`--backbone`, by which a network that code outside of dist_plm defines may be imported."""
    parser.add_argument("--backbone", default="", help="package.module:function of the network, where it is your own")


def check_frozen_options(options: argparse.Namespace) -> None:
    """Raise UserError unless there is a checkpoint or a backbone, and what belongs to one is not given to the other."""
    if not (options.checkpoint or options.backbone):
        raise UserError("name a run or an export with --checkpoint, or a pretrained network with --backbone")
    if options.checkpoint and (options.weights or options.whiten):
        raise UserError("--weights and --whiten belong to --backbone without --checkpoint: leave one side out")
