"""checkpoint.json: where the run was, and size and sha256 of each file of the checkpoint and of what it says itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dist_plm.checkpoint.position import Position
from dist_plm.files.reading import file_digest, read_document

SUMMARY = "checkpoint.json"
OWN = "sha256"  # key of the hash over all the others


def fault(path: Path) -> str:
    """What is wrong with a checkpoint; empty when all is as it was written."""
    try:
        for name, expected in summary(path)["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if file_digest(path / name) != expected:
                return f"{name} is not as it was written"
    except (OSError, ValueError) as error:
        return f"{SUMMARY}: {error}"
    return ""


def summary(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        OSError: It can't be read.
        ValueError: It is damaged: not as it was written, or of values that no run has.
    """
    document = read_document(path / SUMMARY)
    if document.get(OWN, "") not in ("", _own_digest(document)):  # checkpoints of older versions have none
        raise ValueError("not as it was written")
    position = Position.read(document.get("position"))
    if not path.name == f"step_{position.step:08d}" or document.get("step") != position.step:
        raise ValueError(f"of step {position.step}, which is not that of {path.name}")
    phases, files = document.get("phases"), document.get("files")
    if not isinstance(phases, list) or not all(isinstance(name, str) for name in phases):
        raise ValueError("phases is no list of names")
    if position.phase >= len(phases):
        raise ValueError(f"position.phase is {position.phase}, of {len(phases)} phases")
    if not isinstance(document.get("data"), str):
        raise ValueError("data is no fingerprint")
    if not isinstance(files, dict) or not any(name.endswith(".safetensors") for name in files):
        raise ValueError("files names no file of tensors")
    if wrong := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{wrong[0]!a:.80} is not a plain file name")
    if extra := {each.name for each in path.glob("*.safetensors")} - files.keys():
        raise ValueError(f"files does not name {min(extra)}, which is there")
    return document


def signed(document: dict[str, Any]) -> bytes:
    """The bytes of checkpoint.json for what a checkpoint says about itself."""
    document = json.loads(json.dumps(document))
    return json.dumps({**document, OWN: _own_digest(document)}, indent=1).encode()


def _own_digest(document: dict[str, Any]) -> str:
    document = {key: value for key, value in document.items() if key != OWN}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
