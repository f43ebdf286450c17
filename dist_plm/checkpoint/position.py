"""Position of a run (phase, epoch, step, hashes) as a checkpoint stores it, validated when it is read."""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

_SHA256 = re.compile(r"([0-9a-f]{64})?")
_SCORE = re.compile(r"[a-z0-9@ ]{,80}")
_WEIGHTS = re.compile(r"([0-9a-f]+(_wide)?(_fp16)?)?")  # used as a folder name


@dataclass
class Position:
    """State of a run besides tensors and configuration.

    Attributes:
        phase: Index of the phase.
        epoch: Epoch within the phase.
        batch: Next step within the epoch.
        step: Total number of steps done.
        epochs: Total number of epochs completed; seeds plans and views.
        plan: sha256 of the epoch's plan; empty until it exists.
        sweep: Digest of the momentum encoder's weights whose embeddings the plans are based on.
        labels: sha256 of the pseudo-labels of the last refresh; empty if the method has none.
        nearest: sha256 of the table of nearest images of the last refresh; empty if the method has none.
        metrics_bytes: Length of metrics.jsonl.
        best: Highest score of an evaluation so far, by which `checkpoints/best` is chosen.
        best_by: What was scored by `best`; empty if an older version saved it.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    epochs: int = 0
    plan: str = ""
    sweep: str = ""
    labels: str = ""
    nearest: str = ""
    metrics_bytes: int = 0
    best: float = 0.0
    best_by: str = ""

    @classmethod
    def read(cls, document: Any) -> "Position":
        """Parse a position from JSON; fields that an older version did not have get their defaults.

        Raises:
            ValueError: A field is missing, unknown or invalid.
        """
        if not isinstance(document, dict):
            raise ValueError("the position is not a JSON object")
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        if unknown := document.keys() - known.keys():
            raise ValueError(f"the position has an unknown key {min(unknown)!a:.40}")
        if missing := {"phase", "epoch", "batch", "step", "epochs"} - document.keys():
            raise ValueError(f"the position lacks {min(missing)}")
        for name, value in document.items():
            if not _fits(name, known[name], value):
                raise ValueError(f"position.{name} is {value!a:.80}")
        return cls(**document)


def _fits(name: str, kind: Any, value: Any) -> bool:
    if kind is str:
        form = {"sweep": _WEIGHTS, "best_by": _SCORE}.get(name, _SHA256)
        return isinstance(value, str) and bool(form.fullmatch(value))
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, int) and 0 <= value < 2**63
