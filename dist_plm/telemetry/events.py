"""Reads the events of metrics.jsonl, also while a run writes it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_plm.files.reading import parse_document


def read(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """The events of a run in order, of some kinds or all; empty without a file.

    Lines that are not a JSON object, such as an incomplete last one, are skipped.
    """
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    events: list[dict[str, Any]] = []
    names = [f'"{kind}"'.encode() for kind in kinds]
    for line in lines:
        if not names or any(name in line for name in names):  # parsing takes much longer
            with suppress(ValueError):
                events.append(parse_document(line))
    return [event for event in events if "event" in event and (not kinds or event["event"] in kinds)]


def last(run: Path, kind: str, **values: Any) -> dict[str, Any]:
    """The newest event of a kind with these values; empty if there is none."""
    matching = [event for event in read(run, kind) if values.items() <= event.items()]
    return matching[-1] if matching else {}
