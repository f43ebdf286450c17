"""Command lines: YAML and typed overrides to a Config; a usage error is one line and exit status 2."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings

from dist_plm.cli.limits import check_limits
from dist_plm.config import Config, ModelConfig
from dist_plm.distributed.process import prepare_process
from dist_plm.errors import MachineError, RunFailure, UserError
from dist_plm.files.names import escape_streams, is_utf8, printable
from dist_plm.files.plain_yaml import PlainLoader, read_yaml

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line where argparse would print the usage of a hundred options before it."""

    def error(self, message: str, *_: object) -> NoReturn:
        if _speaks():
            print(f"{self.prog}: {printable(' '.join(str(message).split()))} (see --help)", file=sys.stderr)
        sys.exit(2)


class ConfigParser(OneLineParser, ArgumentParser):
    """The same over the schema; a fault in a file is told with the file's name."""

    _file = ""  # being read

    def parse_path(self, cfg_path: Any, *arguments: Any, **options: Any) -> Namespace:
        """As jsonargparse's, which says what is wrong but not in which file."""
        self._file = f"{cfg_path}: "
        try:
            # A pipe can be read but once, and that is for the parser.
            if os.path.isfile(str(cfg_path)) and (key := _repeated_key(Path(str(cfg_path)))):
                self.error(f"{key} stands there twice, and the last would hold alone: join them")
            parsed = super().parse_path(cfg_path, *arguments, **options)
        except UnicodeDecodeError as error:
            self.error(f"no text in UTF-8 ({error.reason} at byte {error.start})")
        except RecursionError:
            self.error("nested too deeply to be read")
        self._file = ""
        return parsed

    def error(self, message: str, *details: object) -> NoReturn:
        super().error(f"{self._file}{message}", *details)


def _repeated_key(path: Path) -> str:
    """The first key of a YAML file that stands twice in its section; empty where there is none."""

    def repeated(node: yaml.Node | None, prefix: str) -> str:
        seen = set()
        # Sections lie in sections no deeper, and an alias may make a node its own child.
        for key, value in node.value if isinstance(node, yaml.MappingNode) and prefix.count(".") < 3 else []:
            name = f"{prefix}{key.value}"
            if name in seen:
                return name
            seen.add(name)
            if found := repeated(value, f"{name}."):
                return found
        return ""

    try:
        return repeated(yaml.compose(path.read_text(encoding="utf-8"), PlainLoader), "")
    except yaml.composer.ComposerError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    except (OSError, yaml.YAMLError):
        return ""  # said by whoever reads it


def config_parser(command: str, description: str) -> ConfigParser:
    """A parser of `--config FILE`, `--section.key value` and `--print_config`."""
    name = f"python -m dist_plm.{command}"
    usage = f"{name} [--config FILE] [--section.key VALUE ...]"
    parser = ConfigParser(prog=name, usage=usage, description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; later options override it")
    parser.add_class_arguments(Config, as_group=False)
    return parser


def config_of(parser: ArgumentParser, parsed: Namespace) -> Config:
    """The Config in the parsed arguments.

    Raises:
        UserError: a section is a single value.
    """
    for name, value in vars(Config()).items():
        if is_dataclass(value) and not isinstance(parsed[name], Namespace):
            raise UserError(f"{name} is {parsed[name]!r}: it must be a section of keys, {', '.join(vars(value))}")
    instances = parser.instantiate(parsed).as_dict()
    return Config(**{name: instances[name] for name in Config.__dataclass_fields__})


def load_config(path: Path) -> Config:
    """The Config in a YAML file.

    Raises:
        UserError: the file is missing, not YAML, or not of this schema.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, as_group=False)
    try:
        config = config_of(parser, parser.parse_object(read_yaml(path)))
    except Exception as error:  # jsonargparse derives its error from Exception alone
        raise UserError(f"{path} is not a configuration of this version: {error}") from error
    try:
        check_limits(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _speaks() -> bool:
    """Every rank sees the same mistake; one says so."""
    rank = os.environ.get("RANK", "0")
    return not rank.isdecimal() or int(rank) == 0


def weights_path(text: str) -> Path:
    """Type of an option that names where weights lie, or shall."""
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{text!a} is not UTF-8, and weights can't lie there: rename it")
    return Path(text)


def add_frozen_options(parser: argparse.ArgumentParser) -> None:
    """`--backbone` and what belongs to it, beside a `--checkpoint` that may be left out."""
    group = parser.add_argument_group("without training, in place of --checkpoint")
    group.add_argument("--backbone", default="", help="timm/NAME, or any other model.backbone")
    group.add_argument("--weights", default="", help="pretrained, imagenet, or a file; as model.weights")
    poolings = get_args(get_type_hints(ModelConfig)["pooling"])
    group.add_argument("--pooling", choices=poolings, help="as model.pooling (the network's own by default)")
    group.add_argument("--size", type=int, default=0, help="side of the centre crop, pixels (pretraining's by default)")
    group.add_argument("--resize", type=int, default=0, help="shorter side before the crop (pretraining's share)")
    group.add_argument("--whiten", metavar="SHARDS", help="data set by whose train split the features are whitened")
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


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a command and leave with its status: 2 after a UserError, 1 after a RunFailure, each in its own words."""
    prepare_process()
    escape_streams()
    try:
        status = command()
    except (UserError, RunFailure) as error:
        if _speaks() or isinstance(error, RunFailure | MachineError):
            print(f"error: {printable(error)}", file=sys.stderr)
        status = 2 if isinstance(error, UserError) else 1
    sys.exit(status)
