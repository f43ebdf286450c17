"""Renders the report from its template."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dist_plm import __version__
from dist_plm.distributed.world import World
from dist_plm.encoders.frozen import FrozenNetwork
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.atomic import replacing
from dist_plm.report.baseline import measure
from dist_plm.report.charts import RUNS, PlotRow, Spec, bars
from dist_plm.report.curves import groups
from dist_plm.report.history import History, read_all
from dist_plm.report.pictures import Pictures, take_pictures, take_test_pictures
from dist_plm.report.tables import differences, evaluations, label_free, tiles
from dist_plm.telemetry.progress import Display
from dist_plm.training.run_directory import dump

MOST_INCIDENTS = 100


@dataclass(frozen=True)
class Section:
    """A run on the page: history, pictures, and why pictures are missing."""

    history: History
    colour: str
    pictures: Pictures
    fault: str

    @property
    def incidents(self) -> list[tuple[int, str, str]]:
        return self.history.incidents()[-MOST_INCIDENTS:]

    @property
    def tiles(self) -> list[tuple[str, str, str]]:
        return tiles(self.history)

    @property
    def label_free(self) -> tuple[list[str], list[list[str]]]:
        return label_free(self.history)

    @property
    def evaluations(self) -> tuple[list[str], list[list[str]]]:
        return evaluations(self.history)

    @property
    def config(self) -> str:
        return dump(self.history.config)


def write_report(paths: list[Path], out: Path, *, shards: str = "", world: World, display: Display) -> None:
    """Write the report of some runs to `out`.

    Args:
        paths: Run directories; several are compared side by side.
        shards: Current location of the data set, if it was moved.

    Raises:
        UserError: A folder is not a run, or `out` can't be written.
    """
    histories = read_all(paths)
    runs = [history.name for history in histories]
    sections = [
        _section(history, RUNS[number % len(RUNS)], runs, shards, world, display)
        for number, history in enumerate(histories)
    ]
    _write(sections, out)


def write_baseline_report(
    frozen: FrozenNetwork, out: Path, *, shards: str, folder: Path, world: World, display: Display
) -> None:
    """Write the report of a pretrained network without training to `out`.

    Args:
        frozen: The network; the pictures are by its whitened features where it has them.
        shards: Data set folder or URL, of which the test split is embedded.
        folder: For the embeddings.

    Raises:
        UserError: The data set can't be read, or `out` can't be written.
    """
    history, pictures = measure(frozen, folder, shards=shards, world=world, display=display), Pictures()
    embedder = frozen.load(frozen.names[-1], world.device)
    take_test_pictures(pictures, embedder, folder, config=history.config, world=world, display=display)
    _write([Section(history, RUNS[0], pictures, "")], out)


def _write(sections: list[Section], out: Path) -> None:
    histories = [section.history for section in sections]
    runs = [history.name for history in histories]
    spent, profiled = _times(histories, History.seconds, 1), _times(histories, History.profiled, 2)
    html = _template().render(
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sections=sections,
        trained=any(history.trained for history in histories),
        groups=groups([history for history in histories if history.trained]),
        spent=bars(spent, runs, "seconds") if any(row["time"] for row in spent) else None,
        profiled=bars(profiled, runs, "ms per step") if profiled else None,
        parts=_parts(sections),
        differences=differences(histories),
        script=Markup(_inside_script(vl_convert.javascript_bundle(VEGA))),
    )
    try:
        with replacing(out) as file:
            file.write(html.encode(errors="backslashreplace"))  # file names may not be UTF-8
    except OSError as error:
        raise UserError(f"{out} can't be written ({error.strerror}): choose another file with --out") from error


def _parts(sections: list[Section]) -> dict[str, str]:
    """Headings by id of the non-empty parts, in the order of the page."""
    filled = {
        "search": ("Search", lambda section: section.pictures.queries),
        "moved": ("Before and after", lambda section: section.pictures.moved),
        "gallery": ("Weakest classes", lambda section: section.pictures.classes),
        "confused": ("Confused", lambda section: section.pictures.confused),
        "map": ("Map", lambda section: section.pictures.map),
        "neighbourhoods": ("Neighbourhoods", lambda section: section.pictures.hoods),
        "coverage": ("Coverage", lambda section: section.pictures.coverage),
        "incidents": ("Restarts", lambda section: section.incidents),
    }
    return {id: heading for id, (heading, of) in filled.items() if any(of(section) for section in sections)}


def _times(histories: list[History], measured: Callable[[History], dict[str, float]], digits: int) -> list[PlotRow]:
    """{run, what, time} of what each run measured."""
    return [
        {"run": history.name, "what": what, "time": round(time, digits)}
        for history in histories
        for what, time in measured(history).items()
    ]


# The function of Vega's bundle that the page's script calls.
VEGA = "window.vegaEmbed = vegaEmbed;"


def _section(history: History, colour: str, runs: list[str], shards: str, world: World, display: Display) -> Section:
    config = history.config
    if shards:
        config = replace(config, data=replace(config.data, shards=shards))
    pictures, fault = Pictures(), ""
    try:
        take_pictures(pictures, history, runs, config=config, world=world, display=display)
    except (UserError, RunFailure) as error:  # numbers can be shown without images
        fault = str(error)
        display.say(f"warning: {history.path}: no pictures: {error}")
    return Section(history, colour, pictures, fault)


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("dist_plm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spec"] = _spec
    return environment.get_template("report.html.j2")


def _spec(spec: Spec) -> Markup:
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _inside_script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
