"""Images that a file lists: a text file of paths, or a CSV of path, label and split."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dist_plm.datasets.entry import Entry, FileEntry, Source
from dist_plm.datasets.plain import SPLITS, WORDS
from dist_plm.errors import UserError
from dist_plm.files.csv_table import read_table

SUFFIXES = (".csv", ".txt", ".lst")
COLUMNS = ("path", "label", "split")


class ListedImage(NamedTuple):
    """An image of a list; label and split may be empty."""

    path: str
    label: str = ""
    split: str = ""


def listed(source: str | Path) -> Source:
    """A list of images: a text file with a path a line, or a CSV with the columns path, label and split.

    Label and split may be left out. Relative paths start at the folder of the list; a path that is listed twice counts
    once. Without splits all images are `train`.
    """
    file = Path(source)
    rows = {row.path: row for row in reversed(_rows(file))}
    rows = dict(sorted(rows.items()))
    splits = [split for split in SPLITS if any(row.split == split for row in rows.values())]
    classes = {split: sorted({r.label for r in rows.values() if r.split == split and r.label}) for split in splits}
    if "gallery" in classes:  # what is searched for and what is searched are compared by label
        searched = [split for split in ("test", "query", "gallery") if split in classes]
        shared = sorted({label for split in searched for label in classes[split]})
        classes |= dict.fromkeys(searched, shared)

    def entries() -> Iterator[Entry]:
        for split in splits:
            numbers = {label: number for number, label in enumerate(classes[split])}
            for row in rows.values():
                if row.split == split:
                    yield _entry(file.parent / row.path, row, numbers.get(row.label))

    return Source(file.resolve().stem, classes, entries, len(rows))


def _entry(path: Path, row: ListedImage, label: int | None) -> FileEntry:
    try:
        size = path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError):
        size = -1
    name = row.label or None
    return FileEntry(source=row.path, split=row.split, label=label, class_name=name, size=size, path=path)


def _rows(file: Path) -> list[ListedImage]:
    """The rows of a list, with known splits.

    Raises:
        UserError: it can't be read, has a quoted field without end or no column `path`, names an unknown split, or
            lists nothing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): name another list") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    if file.suffix.lower() != ".csv":
        rows = [ListedImage(line.strip()) for line in text.splitlines() if line.strip()]
    else:
        rows = _table(file, text)
    if not rows:
        raise UserError(f"{file} lists no images: write a path a line")
    strange = sorted({row.split for row in rows if row.split and row.split.lower() not in WORDS})
    if strange:
        raise UserError(f"{file} has the split '{strange[0]}': splits are {', '.join(SPLITS)}")
    return [row._replace(split=WORDS[row.split.lower()] if row.split else "train") for row in rows]


def _table(file: Path, text: str) -> list[ListedImage]:
    """The rows of a CSV that have a path."""
    try:
        names, rows = read_table(io.StringIO(text, newline=""))
    except ValueError as error:
        raise UserError(f"{file}, {error}") from error
    names = [name.lower() for name in names]
    if "path" not in names:
        raise UserError(
            f"{file} has the columns {', '.join(names) or 'none'}: its first line must name path, and may name "
            "label and split"
        )
    cells = [{name.lower(): cell for name, cell in row.items()} for row in rows]
    return [ListedImage(*(row.get(name, "") for name in COLUMNS)) for row in cells if row.get("path")]
