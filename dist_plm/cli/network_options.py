"""Options of commands that accept a pretrained network in place of a trained one."""

import argparse
from typing import get_args, get_type_hints

from dist_plm.cli.parsers import location
from dist_plm.config import ModelConfig
from dist_plm.errors import UserError

WHITENED_DIM = 128
_OPTIONS = ("weights", "pooling", "size", "resize", "whiten", "dim")


def add_frozen_options(parser: argparse.ArgumentParser, instead_of: str = "--checkpoint") -> None:
    """`--backbone` and its options.

    Args:
        instead_of: The argument that names a trained network, which `--backbone` replaces.
    """
    group = parser.add_argument_group(f"pretrained network without training, instead of {instead_of}")
    group.add_argument(
        "--backbone",
        default="",
        help=f"timm/NAME, or any other model.backbone; with {instead_of}: package.module:function of your own network",
    )
    group.add_argument("--weights", type=location, default="", help="pretrained, imagenet, or a file; as model.weights")
    poolings = get_args(get_type_hints(ModelConfig)["pooling"])
    group.add_argument("--pooling", choices=poolings, help="as model.pooling (default: as pretrained)")
    group.add_argument("--size", type=int, default=0, help="side of the centre crop, pixels (default: as pretrained)")
    group.add_argument("--resize", type=int, default=0, help="shorter side before the crop (default: as pretrained)")
    group.add_argument(
        "--whiten", type=location, metavar="SHARDS", help="data set whose train split fits a PCA whitening"
    )
    group.add_argument("--dim", type=int, help=f"dimension after whitening (default: {WHITENED_DIM})")


def add_code_option(parser: argparse.ArgumentParser) -> None:
    """`--backbone`, which permits the import of a network defined outside of dist_plm."""
    parser.add_argument("--backbone", default="", help="package.module:function of your own network")


def check_frozen_options(options: argparse.Namespace, *, trained: bool, instead_of: str = "--checkpoint") -> None:
    """Raise UserError unless exactly one network is named, and the options of a pretrained one belong to one.

    Args:
        trained: Whether a trained network is named.
        instead_of: As for `add_frozen_options`.
    """
    if not (trained or options.backbone):
        raise UserError(f"no network: name a trained one with {instead_of}, or a pretrained one with --backbone")
    given = [f"--{name}" for name in _OPTIONS if getattr(options, name)]
    if trained and given:
        raise UserError(f"{', '.join(given)}: only for a pretrained network (--backbone without {instead_of})")
    if options.dim is not None and not options.whiten:
        raise UserError("--dim is the dimension after whitening: name the data set to fit it on with --whiten SHARDS")
    if options.dim is not None and options.dim < 1:
        raise UserError(f"--dim is {options.dim}: at least 1")
    options.dim = options.dim or WHITENED_DIM
