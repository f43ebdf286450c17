"""checkpoint.json: position of the run, size and sha256 of each file, and the sha256 of the document itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dist_plm.checkpoint.position import Position
from dist_plm.files.reading import file_digest, read_document

SUMMARY = "checkpoint.json"
OWN = "sha256"  # key of the hash over all the others


def fault(path: Path) -> str:
    """Why a checkpoint is damaged; empty if it is intact."""
    try:
        for name, expected in summary(path)["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if file_digest(path / name) != expected:
                return f"{name} is damaged (size or sha256 differs)"
    except (OSError, ValueError) as error:
        return f"{SUMMARY}: {error}"
    return ""


def summary(path: Path) -> dict[str, Any]:
    """Read and validate checkpoint.json.

    Raises:
        OSError: It can't be read.
        ValueError: It is damaged or has invalid values.
    """
    document = read_document(path / SUMMARY)
    if document.get(OWN, "") not in ("", _own_digest(document)):  # checkpoints of older versions have none
        raise ValueError("damaged (its sha256 differs)")
    position = Position.read(document.get("position"))
    if not path.name == f"step_{position.step:08d}" or document.get("step") != position.step:
        raise ValueError(f"it belongs to step {position.step}, not to {path.name}")
    phases, files = document.get("phases"), document.get("files")
    if not isinstance(phases, list) or not all(isinstance(name, str) for name in phases):
        raise ValueError("phases is not a list of names")
    if position.phase >= len(phases):
        raise ValueError(f"position.phase is {position.phase}, of {len(phases)} phases")
    if not isinstance(document.get("data"), str):
        raise ValueError("data is not a fingerprint")
    if not isinstance(files, dict) or not any(name.endswith(".safetensors") for name in files):
        raise ValueError("files lists no file of tensors")
    if wrong := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{wrong[0]!a:.80} is not a plain file name")
    if extra := {file.name for file in path.glob("*.safetensors")} - files.keys():
        raise ValueError(f"{min(extra)} exists but is not listed in files")
    return document


def signed(document: dict[str, Any]) -> bytes:
    """The bytes of checkpoint.json for a summary, with its own hash."""
    document = json.loads(json.dumps(document))
    return json.dumps({**document, OWN: _own_digest(document)}, indent=1).encode()


def _own_digest(document: dict[str, Any]) -> str:
    document = {key: value for key, value in document.items() if key != OWN}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
