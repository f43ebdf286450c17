"""Metrics of a run: one JSON object per line in metrics.jsonl, and the same numbers in the logger backends."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dist_plm.files.atomic import replacing
from dist_plm.files.reading import parse_document
from dist_plm.telemetry.boards import Board, TensorBoard, Unreachable, WeightsAndBiases
from dist_plm.telemetry.speaker import Speaker

INCIDENTS = ("resumed", "forced", "preempted", "requeued", "failure")


def scalars(event: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of all numbers of an event except step and epoch; entries of dictionaries are named name@key."""
    for name, value in event.items():
        for key, number in (value if isinstance(value, dict) else {"": value}).items():
            if isinstance(number, int | float) and name not in ("step", "epoch"):
                yield f"{name}@{key}" if key else name, number


def _event(line: bytes) -> dict[str, Any]:
    """The event in a line; empty if the line is not one."""
    try:
        return parse_document(line)
    except ValueError:
        return {}


def _befell(line: bytes) -> bool:
    return _event(line).get("event") in INCIDENTS


class Metrics:
    """Appends events to `metrics.jsonl` on rank 0; does nothing on the others.

    Args:
        folder: The run directory.
        world: The ranks.
        keep_bytes: Length of the file in the checkpoint that the run resumes from. Later lines of a killed run are cut
            off, since they will be written again, except for events about the run itself (INCIDENTS).

    Attributes:
        fault: Damage that was found in the file, which now has its complete lines only; empty for none.
    """

    fault = ""

    def __init__(self, folder: Path, world: Speaker, keep_bytes: int = 0) -> None:
        self.active = world.is_first
        if not self.active:
            return
        path = folder / "metrics.jsonl"
        path.touch()
        text = path.read_bytes()
        lines = text[:keep_bytes].splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and _event(line)]
        if (lost := len(lines) - len(kept)) or len(text) < keep_bytes:
            self.fault = (
                f"{path} is damaged: it has {len(text):,} bytes, {keep_bytes:,} when the checkpoint was saved, and "
                f"{lost:,} line(s) can't be read; {len(kept):,} whole ones are kept"
            )
        kept += [line for line in text[keep_bytes:].splitlines(keepends=True) if line.endswith(b"\n") and _befell(line)]
        with replacing(path) as file:
            file.writelines(kept)
        self._file = path.open("a", encoding="utf-8")
        last = [step for line in kept if isinstance(step := _event(line).get("step", 0), int)]
        self._boards: list[Board] = [TensorBoard(folder, max(last) if last else None)]
        self._folder = folder

    def add_wandb(self, project: str) -> str:
        """Also log to this project of Weights & Biases. Returns why it is unavailable; training continues."""
        if self.active:
            try:
                self._boards.append(WeightsAndBiases(project, self._folder))
            except Unreachable as error:
                return f"Weights & Biases is unavailable: {error}"
        return ""

    def write(self, event: str, **values: Any) -> None:
        """Append one event; if it has a `step`, its numbers also go to the logger backends."""
        if not self.active:
            return
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        if "step" in values:
            tag = f"{event}/{values['model']}" if "model" in values else event
            numbers = {f"{tag}/{name}": number for name, number in scalars(values)}
            for board in self._boards:
                board.add(numbers, values["step"])

    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell() if self.active else 0

    def sync(self) -> None:
        """Flush to disk."""
        if self.active:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self.active:
            self._file.close()
            for board in self._boards:
                board.close()
