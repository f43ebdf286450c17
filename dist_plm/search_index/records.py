"""Records of an index: the lines of images.jsonl, unreadable.jsonl and ignored.jsonl, which are untrusted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dist_plm.files.reading import parse_document

Record = dict[str, Any]
_LINE_BYTES = 1 << 20


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, each with a `name`, and a `label` that is a text or missing.

    Raises:
        OSError: It can't be read.
        ValueError, KeyError: A line is no JSON object, is larger than 1 MiB, or has no name.
    """
    with path.open("rb") as lines:
        while line := lines.readline(_LINE_BYTES + 1):
            record = parse_document(line, _LINE_BYTES)
            label = record.get("label")
            yield {**record, "name": str(record["name"]), **({} if label is None else {"label": str(label)})}
