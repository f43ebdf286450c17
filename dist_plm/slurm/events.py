"""Reading metrics.jsonl while a run writes it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_plm.files.reading import parse_document


def read(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """The events of a run, of one kind or all; an incomplete line is skipped."""
    events: list[dict[str, Any]] = []
    with suppress(FileNotFoundError):
        for line in (run / "metrics.jsonl").read_bytes().splitlines():
            with suppress(ValueError):
                events.append(parse_document(line))
    return [event for event in events if "event" in event and kind in ("", event["event"])]


def last(run: Path, kind: str, **values: Any) -> dict[str, Any]:
    """The newest event of a kind with these values; empty if there is none."""
    matching = [event for event in read(run, kind) if values.items() <= event.items()]
    return matching[-1] if matching else {}
