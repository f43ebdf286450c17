"""`--config FILE`, `--section.key value`, `--print_config`, `--help` and `--help-all`: a Config from a command line."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings

from dist_plm.cli.limits import check_limits
from dist_plm.cli.parsers import OneLineParser, expanded, program
from dist_plm.cli.spelling import respelled, suggestion
from dist_plm.cli.yaml_text import checked_text
from dist_plm.config import Config, flat
from dist_plm.config.retired import RETIRED, without_retired
from dist_plm.config.text import as_yaml
from dist_plm.errors import UserError
from dist_plm.files.plain_yaml import PlainLoader, read_yaml

set_parsing_settings(docstring_parse_attribute_docstrings=True)

# The most common keys, shown by --help.
COMMON = (
    "run_dir", "data.shards", "model.backbone", "model.weights", "views.size", "batch.groups", "train.method",
    "train.epochs", "optimiser.lr", "train.precision",
)  # fmt: skip
PATHS = ("run_dir", "data.shards", "data.cache_dir", "model.weights")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"  # in a checkout a link to configs/ at the top
KEYS = tuple(flat(asdict(Config())))


class _HelpAll(argparse._HelpAction):
    """`--help-all`."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        assert isinstance(parser, ConfigParser)
        parser.shows_all = True
        super().__call__(parser, *arguments, **options)


class ConfigParser(OneLineParser, ArgumentParser):
    """A parser over the schema of a configuration.

    Options override `--config` wherever they stand. `--help` shows the options of the command and `COMMON` keys,
    `--help-all` all of them.
    """

    shows_all = False
    given: frozenset[str] = frozenset()  # keys set by a file or an option, after parsing
    _file = ""  # the file being parsed

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *arguments: Any, **options: Any
    ) -> Namespace:
        """As jsonargparse, with files before options, and American spelling accepted."""
        words = list(respelled(sys.argv[1:] if args is None else args))
        self.given = frozenset(word[2:].partition("=")[0] for word in words if word.startswith("--"))
        return super().parse_args(files_first(words), *arguments, **options)

    def parse_path(self, cfg_path: Any, *arguments: Any, **options: Any) -> Namespace:
        """As jsonargparse, with the file's name in error messages."""
        self._file = f"{cfg_path}: "
        try:
            parsed = super().parse_path(cfg_path, *arguments, **options)
        except UnicodeDecodeError as error:
            self.error(f"not UTF-8 text ({error.reason} at byte {error.start})")
        except RecursionError:
            self.error("nested too deeply to be read")
        self._file = ""
        return parsed

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        """As jsonargparse, with keys checked and American spelling accepted."""
        try:
            content = checked_text(content, KEYS)
        except ValueError as error:
            self.error(str(error))
        with suppress(yaml.YAMLError):  # reported by the parser
            tree = yaml.load(content, PlainLoader)
            self.given |= flat(tree).keys() if isinstance(tree, dict) else set()
        return super().parse_string(content, *arguments, **options)

    def dump(self, cfg: Any, **options: Any) -> str:
        """Output of `--print_config`: the sections that have an effect; with flags, as jsonargparse prints them."""
        if any(options.get(flag) for flag in ("skip_default", "skip_unset")):
            return str(super().dump(cfg, **options))
        return as_yaml(asdict(config_of(self, cfg)))

    def error(self, message: str, *details: object) -> NoReturn:
        option = re.search(r"unrecognized arguments: --([\w.]+)", message)
        if option and option[1] in RETIRED:
            message = f"{option[1]} was removed: {RETIRED[option[1]].reason}"
        super().error(f"{self._file}{_plain(message)}", *details)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The short help, or all of it for `--help-all`."""
        if self.shows_all:
            return str(super().format_help(formatter))
        sections = {key.partition(".")[0] for key in KEYS}
        shown = [a for a in self._actions if a.dest in COMMON or a.dest.partition(".")[0] not in sections]
        shown.sort(key=lambda action: action.dest in COMMON)  # the command's own options first
        formatter = formatter or self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments(shown)
        formatter.end_section()
        formatter.add_text(f"These are {len(COMMON)} of {len(KEYS)} settings; --help-all shows all of them.")
        return formatter.format_help()


def files_first(words: Sequence[str]) -> list[str]:
    """The arguments with every `--config FILE` moved to the front, since jsonargparse applies them in order."""
    files, others = [], []
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            files += [word, *[shipped(path) for path in [next(remaining, None)] if path is not None]]
        elif word.startswith("--config="):
            files.append(f"--config={shipped(word.removeprefix('--config='))}")
        else:
            others.append(word)
    return [*files, *others]


def shipped(name: str) -> str:
    """The path of a configuration: `name` where such a file exists, else the file of that name in the package.

    `cub200_best`, `cub200_best.yaml` and `configs/cub200_best.yaml` are the same file wherever dist_plm is installed.
    """
    path = CONFIGS / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    return str(path) if path.is_file() and not Path(name).exists() else name


def config_parser(command: str, description: str) -> ConfigParser:
    """A parser of `--config FILE`, `--section.key value` and `--print_config`."""
    name = program(f"python -m dist_plm.{command}")
    usage = f"{name} [--config FILE] [--section.key VALUE ...]"
    parser = ConfigParser(prog=name, usage=usage, description=description)
    parser.add_argument("--help-all", action=_HelpAll, help="Show all settings and exit.")
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="YAML file of settings, or a shipped one's name; options override it",
    )
    parser.add_class_arguments(Config, as_group=False)
    return parser


def config_of(parser: ArgumentParser, parsed: Namespace) -> Config:
    """The Config in the parsed arguments, with `~` in its paths expanded.

    Raises:
        UserError: A section is a single value, or a path names an unknown user's home folder.
    """
    for name, value in vars(Config()).items():
        if is_dataclass(value) and not isinstance(parsed[name], Namespace):
            raise UserError(f"{name} is {parsed[name]!r}: it must be a section of keys, {', '.join(vars(value))}")
    for key in PATHS:
        parsed[key] = expanded(parsed[key])
    instances = parser.instantiate(parsed).as_dict()
    return Config(**{name: instances[name] for name in Config.__dataclass_fields__})


def load_config(path: Path) -> Config:
    """The Config in a YAML file.

    Raises:
        UserError: The file is missing, not YAML, or does not match the schema.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, as_group=False)
    try:
        config = config_of(parser, parser.parse_object(without_retired(read_yaml(path))))
    except Exception as error:  # jsonargparse derives its error from Exception alone
        raise UserError(f"{path} is not a configuration of this version: {error}") from error
    try:
        check_limits(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _plain(message: str) -> str:
    """A message of jsonargparse without Python types."""
    pattern = r'Parser key "([\w.]+)":\s+Expected a (.+?)\. Got value: (.*)'
    match = re.search(pattern, " ".join(str(message).split()))
    if not match:
        return message
    key, wanted, value = match.groups()
    simple = {"<class 'int'>": "an integer", "<class 'float'>": "a number", "<class 'bool'>": "true or false"}
    if choices := re.fullmatch(r"typing\.Literal\[(.+)\]", wanted):
        options = [option.strip("' ") for option in choices[1].split(",")]
        return f"{key} is {value}: it must be one of {', '.join(options)}{suggestion(value, options)}"
    return f"{key} is {value}: it must be {simple[wanted]}" if wanted in simple else message
