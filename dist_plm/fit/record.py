"""RUN/fit.json: the images that a run belongs to; once its settings are chosen, what was typed, and its ranks."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_plm.datasets.assembly import writing
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing

FILE = "fit.json"


def recorded(run: Path) -> dict[str, Any]:
    """The record of a run; empty without one, or if it is damaged."""
    with suppress(OSError, ValueError):
        known = json.loads((run / FILE).read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def record(run: Path, values: dict[str, Any]) -> None:
    """Replace the record of a run. Raises UserError if the folder can't be written."""
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        with replacing(run / FILE) as file:
            file.write(json.dumps(values).encode())


def owner(run: Path) -> str:
    """The resolved path of the images that a run belongs to; empty if it is not recorded."""
    known = recorded(run)
    typed = known.get("typed")
    return str(known.get("images") or (typed.get("images", "") if isinstance(typed, dict) else ""))


def check_owner(run: Path, images: Path) -> None:
    """Raise UserError if a run belongs to other images."""
    if (path := owner(run)) not in ("", str(images.resolve())):
        raise UserError(f"{run} belongs to {path}, not to {images.resolve()}: choose another --out")


def claim(run: Path, images: Path) -> None:
    """Record to which images a run belongs, before anything of them is written; a run that has a record keeps it."""
    if not owner(run):
        record(run, {"images": str(images.resolve())})
