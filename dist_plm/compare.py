"""`python -m dist_plm.compare RUN...`: table of runs and published results, mean ± std over seeds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dist_plm.cli import OneLineParser, run_command
from dist_plm.errors import UserError

if TYPE_CHECKING:
    from dist_plm.config import DataConfig
    from dist_plm.report.comparison import RunResult, TableRow


def main() -> int:
    """Print a table for each data set, on a terminal or as Markdown."""
    options = _parse()
    from dist_plm.report.comparison import paper_rows, rows_of

    runs = [_read(path, options.model, options.data) for path in options.runs]
    for data in dict.fromkeys(run.data for run in runs):
        rows = rows_of([run for run in runs if run.data == data])
        rows += paper_rows(data, {row.dim for row in rows})
        title = f"{data}, {options.model}, recall in %"
        print(_markdown(title, rows)) if options.markdown else _print(title, rows)
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory; averaged over seeds")
    parser.add_argument("--model", choices=("student", "teacher"), default="student", help="evaluated network")
    parser.add_argument("--data", default="", help="name of the data set (in its manifest: cub200, cars196, sop)")
    parser.add_argument("--markdown", action="store_true", help="Markdown instead of a table for the terminal")
    return parser.parse_args()


def _read(path: Path, model: str, data: str) -> "RunResult":
    """The last evaluation of a run; not the best, which would be selected on the test set."""
    from dist_plm.config.fields import entries
    from dist_plm.report.comparison import RunResult
    from dist_plm.report.history import History

    history = History.read(path)
    results = [event for event in history.of("eval") if event["model"] == model]
    if not results:
        raise UserError(f"{path} has no evaluation of the {model}: train longer, or omit it")
    settings = {key: value for key, value, rules in entries(history.config) if not rules.free and key != "seed"}
    name = data or _data_name(history.config.data)
    return RunResult(history.name, history.config.seed, settings, name, results[-1])


def _data_name(data: "DataConfig") -> str:
    """The manifest's name of a data set; the folder's name if the data set was moved."""
    from dist_plm.data.opening import manifest_of

    try:
        return manifest_of(data).name
    except UserError:
        return data.shards.rstrip("/").rpartition("/")[2]


def _cells(row: "TableRow", columns: list[str]) -> list[str]:
    name = f"{row.name} (paper, {row.source})" if row.source else row.name
    return [name, str(row.dim), row.seeds, row.steps, *map(row.cell, columns)]


def _heads(columns: list[str]) -> list[str]:
    return ["method", "D", "seeds", "steps", *columns]


def _markdown(title: str, rows: list["TableRow"]) -> str:
    from dist_plm.report.comparison import columns_of

    columns = columns_of(rows)
    table = [_heads(columns), ["---", *["---:"] * (3 + len(columns))], *(_cells(row, columns) for row in rows)]
    return f"{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"


def _print(title: str, rows: list["TableRow"]) -> None:
    from rich.console import Console
    from rich.table import Table

    from dist_plm.report.comparison import columns_of

    columns, console = columns_of(rows), Console()
    lines, heads = [_cells(row, columns) for row in rows], _heads(columns)
    padding = 3  # of a cell, its frame included
    widths = [max(len(line[column]) for line in [heads, *lines]) + padding for column in range(len(heads))]
    legend = []
    if sum(widths) > console.width:  # names of methods below, by number; less space in the numbers
        legend = [f"{number:>3}  {line[0]}" for number, line in enumerate(lines, start=1)]
        heads = ["", *heads[1:]]
        lines = [
            [str(number), *(cell.replace(" ± ", "±") for cell in line[1:])]
            for number, line in enumerate(lines, start=1)
        ]
    table = Table(title=title, title_justify="left", padding=(0, 0 if legend else 1))
    for column, head in enumerate(heads):
        table.add_column(head, justify="right" if column or legend else "left", overflow="fold")
    for row, line in zip(rows, lines, strict=True):
        table.add_row(*line, style="dim" if row.source else None)
    console.print(table)
    for entry in legend:
        console.print(entry, highlight=False, markup=False)


if __name__ == "__main__":
    run_command(main)
