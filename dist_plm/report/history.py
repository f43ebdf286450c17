"""History of a run from config.yaml and metrics.jsonl."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.data.place import of_run
from dist_plm.errors import UserError
from dist_plm.telemetry.metrics import scalars

Event = dict[str, Any]

INCIDENTS = {
    "resumed": "resumed on {world_size} rank(s)",
    "preempted": "preempted by signal {signal}, checkpoint saved",
    "requeued": "restart {restart}: {reason}",
    "failure": "failed: {message}",
    "non_finite": "{message}",
    "forced": "resumed with other settings: {changed}",
    "warning": "{message}",
}


@dataclass(frozen=True)
class History:
    """History of a run directory.

    Attributes:
        name: For display; unique among the runs of one report.
        config: As resolved.
        events: Lines of metrics.jsonl in order, without the numbers that are not finite.
        trained: False for a pretrained network, which only has evaluations.
    """

    path: Path
    name: str
    config: Config
    events: list[Event]
    trained: bool = True

    @classmethod
    def read(cls, path: Path, name: str = "") -> "History":
        """Raises UserError if `path` is not a run directory or has no events yet."""
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not a run directory (no config.yaml): name one written by dist_plm.train")
        config = of_run(load_config(path / "config.yaml"), path)
        try:
            lines = (path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise UserError(f"{path}/metrics.jsonl can't be read ({error.strerror}): choose a run directory") from error
        events = [event for event in map(_parsed, lines) if event]
        if not events:
            raise UserError(f"{path}/metrics.jsonl has no events yet: wait for the run to start, or choose another")
        return cls(path, name or path.resolve().name, config, events)

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.get("event") == kind]

    @property
    def last_step(self) -> int:
        return max((event.get("step", 0) for event in self.events), default=0)

    def numbers(self, kind: str) -> Iterator[tuple[int, str, float]]:
        """(step, name, value) of every number in the events of one kind; dictionaries read as name@key."""
        for event in self.of(kind):
            for name, value in scalars(event):
                yield event.get("step", 0), name, value

    def incidents(self) -> list[tuple[int, str, str]]:
        """(step, kind, text) of restarts and warnings, in order; those of the launcher at the last step."""
        incidents, step = [], 0
        for event in self.events:
            step = event.get("step", step)
            if text := INCIDENTS.get(event.get("event", "")):
                incidents.append((step, event["event"], text.format_map(_Known(event))))
        return incidents

    def seconds(self) -> dict[str, float]:
        """Measured time by activity: steps by their rate, other activities by their seconds."""
        step_seconds = waiting = 0.0
        before = 0
        for event in self.of("step"):
            lap = max(0, event["step"] - before) * self.config.batch.images / event["images_per_second"]
            step_seconds, waiting, before = step_seconds + lap, waiting + lap * event["wait_share"], event["step"]
        spent = {"computing steps": step_seconds - waiting, "waiting for data": waiting}
        for kind, name in (("sweep", "embedding passes"), ("eval", "evaluation")):
            spent[name] = sum(event.get("seconds", 0.0) for event in self.of(kind))
        return spent

    def profiled(self) -> dict[str, float]:
        """Milliseconds of each part of a step, by the last profile; empty without one."""
        events = self.of("profile")
        return (
            {part: 1e3 * s / max(events[-1]["steps"], 1) for part, s in events[-1]["seconds"].items()} if events else {}
        )


def read_all(paths: list[Path]) -> list[History]:
    """The histories of several runs, with unique names."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.resolve().parts[-2:]) for path in paths]
    if len(set(names)) < len(names):
        names = [str(path.resolve()) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(map(str, paths))}: a run is given twice")
    return [History.read(path, name) for path, name in zip(paths, names, strict=True)]


class _Known(dict[str, Any]):
    """Fills missing fields of an event with a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _parsed(line: str) -> Event | None:
    try:
        event = json.loads(line, object_pairs_hook=_finite)
    except (ValueError, RecursionError):  # the last line of a run that is being written, or was killed
        return None
    return event if isinstance(event, dict) else None


def _finite(pairs: list[tuple[str, Any]]) -> Event:
    # A diverged run has NaN, which is not valid JSON and would break the page.
    return {name: value for name, value in pairs if not isinstance(value, float) or math.isfinite(value)}
