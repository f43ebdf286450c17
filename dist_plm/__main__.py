"""`dist-plm COMMAND ...`, or `python -m dist_plm COMMAND ...`: all commands behind one name.

`dist-plm train ...` is `python -m dist_plm.train ...`. A command's module is imported when it is called, so that the
list of commands takes no torch and no time.
"""

import importlib
import sys
from difflib import get_close_matches
from typing import NoReturn

from dist_plm import __version__

# Group -> name -> module with a `main() -> int`, and what it does.
COMMANDS = {
    "start here": {
        "fit": ("dist_plm.fit.__main__", "from a folder of images to a search page, in one command"),
    },
    "train and judge": {
        "train": ("dist_plm.train", "train an embedding, or resume a run"),
        "evaluate": ("dist_plm.evaluate", "recall@K, MAP@R, NMI of a run, export or frozen network"),
        "report": ("dist_plm.report.__main__", "HTML report of one or several runs"),
        "compare": ("dist_plm.compare", "table of runs beside published results"),
        "clean": ("dist_plm.clean", "remove what a finished run no longer needs"),
        "supervision": ("dist_plm.supervision.__main__", "how well estimated similarities agree with labels"),
    },
    "search": {
        "embed": ("dist_plm.embed", "embed images into an index"),
        "index": ("dist_plm.search_index.__main__", "list, add, remove or update the images of an index"),
        "search": ("dist_plm.search", "nearest images of a picture"),
        "serve": ("dist_plm.serve", "search page in the browser"),
        "export": ("dist_plm.export", "write the network as safetensors, ONNX or torch.export"),
    },
    "data and machines": {
        "shards build": ("dist_plm.datasets.build", "build a data set from a folder or a benchmark's layout"),
        "shards verify": ("dist_plm.datasets.verify", "check a data set against its checksums"),
        "slurm": ("dist_plm.slurm.__main__", "submit runs, sweeps and builds to Slurm"),
        "bench": ("dist_plm.bench.__main__", "performance ratios of this machine"),
        "toy": ("dist_plm.toy", "figure 1 of the paper: crossing curves"),
    },
}
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}


def main() -> int:
    """Run the command that the first words name; without words, list all. Exit status of the command, 2 for no such."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"dist_plm {__version__}")
        return 0
    name = " ".join(words[:2]) if " ".join(words[:2]) in MODULES else words[0]
    if name not in MODULES:
        print(f"dist-plm: {unknown(words)}", file=sys.stderr)
        return 2
    # Parsers take their name from the first word.
    sys.argv = [f"dist-plm {name}", *words[len(name.split()) :]]
    return int(importlib.import_module(MODULES[name]).main())


def overview() -> str:
    """All commands with a line each, 80 columns wide."""
    lines = ["usage: dist-plm COMMAND [options]      dist-plm COMMAND --help"]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:<15}{words}" for name, (_, words) in commands.items())]
    return "\n".join(lines)


def unknown(words: list[str]) -> str:
    """Error message for an unknown command."""
    below = [name for name in MODULES if name.startswith(f"{words[0]} ")]
    if below:
        return f"{words[0]} needs one of: {', '.join(below)}"
    near = get_close_matches(words[0], MODULES, n=1, cutoff=0.6)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"there is no command {words[0]!r}{meant} (dist-plm lists all commands)"


def command() -> NoReturn:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help", "--version"):
        sys.exit(main())  # without what `cli` imports
    from dist_plm.cli import run_command

    run_command(main)


if __name__ == "__main__":
    command()
