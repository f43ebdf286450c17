"""Command lines: YAML and typed overrides to a Config; a usage error is one line and exit status 2."""

from dist_plm.cli.config_parser import ConfigParser, config_of, config_parser, load_config, shipped
from dist_plm.cli.network_options import add_code_option, add_frozen_options, check_frozen_options
from dist_plm.cli.parsers import OneLineParser, add_threads, location, program, user_path, weights_path
from dist_plm.cli.running import run_command

__all__ = [
    "ConfigParser",
    "OneLineParser",
    "add_code_option",
    "add_frozen_options",
    "add_threads",
    "check_frozen_options",
    "config_of",
    "config_parser",
    "load_config",
    "location",
    "program",
    "run_command",
    "shipped",
    "user_path",
    "weights_path",
]
