"""`dist-plm fit PHOTOS`: from a folder of images to a search page, in one command; the same command resumes.

It builds a data set, looks at machine and images, chooses network, sizes and length, prints them with their reasons,
trains, compares the result with its start, embeds all images, and names the command that opens the page.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dist_plm.cli import ConfigParser, config_parser, load_config, program, run_command, shipped
from dist_plm.config.fields import entries
from dist_plm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import Namespace

MINUTES = 10.0


def command_line() -> ConfigParser:
    """The argument parser, with configs/folder.yaml as defaults."""
    parser = config_parser("fit", __doc__ or "")
    parser.set_defaults({key: value for key, value, _ in entries(load_config(Path(shipped("folder"))))})
    name = program("python -m dist_plm.fit")
    parser.usage = f"{name} PHOTOS [--out RUN] [--minutes N] [--section.key VALUE ...]"
    what = "folder of images, list of files (.txt), CSV of path,label,split, WebDataset tars, or a data set"
    parser.add_argument("photos", type=str, metavar="PHOTOS", help=what)
    parser.add_argument("--out", type=str, default="", help="run directory to write (default: runs/NAME of the images)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time budget of all parts")
    parser.add_argument("--ranks", type=str, default="auto", help="training processes; auto: by GPUs and cores")
    parser.add_argument("--plan", action="store_true", help="build the data set, print what was chosen, and stop")
    return parser


def main() -> int:
    """Run all parts. Exit status 0 done, 1 failure, 2 usage error, 75 or 130 stopped: rerun to resume."""
    parser = command_line()
    return _fit(parser, parser.parse_args(), parser.given)


def _fit(parser: ConfigParser, parsed: "Namespace", given: frozenset[str]) -> int:
    """Check the arguments, then run the parts."""
    from dist_plm.cli import config_of, user_path
    from dist_plm.fit.asked import Asked
    from dist_plm.fit.photos import Photos
    from dist_plm.fit.run import Run
    from dist_plm.model.own_backbone import allow

    ranks = 0 if parsed.ranks == "auto" else int(parsed.ranks) if parsed.ranks.isdecimal() else -1
    if ranks < 0 or parsed.ranks == "0":
        raise UserError(f"--ranks {parsed.ranks}: auto, or a positive integer")
    if not 0 < parsed.minutes < 1e6:
        raise UserError(f"--minutes {parsed.minutes:g}: a positive number")
    photos = Photos.at(user_path(parsed.photos))
    config = config_of(parser, parsed)
    out = user_path(parsed.out or (config.run_dir if "run_dir" in given else str(photos.default_run())))
    config.run_dir = str(out)
    if "model.backbone" in given:
        allow(config.model.backbone)
    asked = Asked(config, given, ranks, parsed.minutes)
    return Run(photos, out, asked).run(plan=parsed.plan)


if __name__ == "__main__":
    run_command(main)
