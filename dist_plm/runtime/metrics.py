"""What a run measures: one JSON object a line in metrics.jsonl, and the same numbers in TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

from dist_plm.runtime.atomic import replacing
from dist_plm.runtime.world import World

INCIDENTS = ("resumed", "preempted", "failure")


class Metrics:
    """Appends events of the first rank to `metrics.jsonl`; silent on the others.

    Args:
        folder: The run directory.
        world: The ranks.
        keep_bytes: Length of the file when the checkpoint was saved that the run goes on from. What a killed run wrote
            after it will be written again and is cut off, but for what befell the run itself (INCIDENTS).
    """

    def __init__(self, folder: Path, world: World, keep_bytes: int = 0) -> None:
        self.active = world.is_first
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        path.touch()
        text = path.read_bytes()
        kept, rest = text[:keep_bytes].decode(), text[keep_bytes:].decode(errors="replace")
        kept += "".join(
            line + "\n" for line in rest.splitlines() if any(f'"event": "{name}"' in line for name in INCIDENTS)
        )
        with replacing(path) as file:
            file.write(kept.encode())
        self._file = path.open("a", encoding="utf-8")
        last = [json.loads(line).get("step", 0) for line in kept.splitlines()]
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=max(last) + 1 if last else None)

    def write(self, event: str, **values: Any) -> None:
        """Append one event; numbers, and numbers in dictionaries, also go to TensorBoard if there is a `step`."""
        if not self.active:
            return
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        tag = f"{event}/{values['model']}" if "model" in values else event
        for name, value in values.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                if isinstance(number, int | float) and "step" in values and name not in ("step", "epoch"):
                    self._board.add_scalar(f"{tag}/{name}{'@' + key if key else ''}", number, values["step"])

    def position(self) -> int:
        """Bytes written so far."""
        if not self.active:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._board.close()
