"""Where a run is, as a checkpoint records it: read back only if every field is what a run could have written."""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

_SHA256 = re.compile(r"([0-9a-f]{64})?")
_WEIGHTS = re.compile(r"([0-9a-f]+(_wide)?(_fp16)?)?")  # names a folder


@dataclass
class Position:
    """Where a run is: all that is not a function of the configuration, besides the tensors.

    Attributes:
        phase: Index of the phase.
        epoch: Epoch within the phase.
        batch: Next step within the epoch.
        step: Steps done in all.
        epochs: Epochs ended in all; seeds plans and views.
        plan: sha256 of the epoch's plan; empty until it is made.
        sweep: Name of the teacher's weights whose embeddings the plans rest on.
        labels: sha256 of the classes made up at the last refresh; empty where there are none.
        nearest: sha256 of the table of nearest images made at the last refresh; empty where nothing reads it.
        metrics_bytes: Length of metrics.jsonl.
        best: Highest recall of an evaluation so far that decides which checkpoint is the best.
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

    @classmethod
    def read(cls, document: Any) -> "Position":
        """The position in a JSON document; fields that an older version did not have take their defaults.

        Raises:
            ValueError: a field is missing, unknown, or of a value that no run has.
        """
        if not isinstance(document, dict):
            raise ValueError("the position is no JSON object")
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
        return isinstance(value, str) and bool((_WEIGHTS if name == "sweep" else _SHA256).fullmatch(value))
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, int) and 0 <= value < 2**63
