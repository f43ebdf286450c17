"""State of a run: its job, restarts, latest metrics, and the log of a failed rank."""

import re
from pathlib import Path
from typing import Any

from dist_plm.errors import UserError
from dist_plm.slurm import record, results, scheduler, sweep
from dist_plm.slurm.record import Record
from dist_plm.telemetry import events

TAIL = 15  # lines
BAD = ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED", "")


def report(run: Path) -> str:
    """A few lines about a run; for a sweep, about each run.

    Raises:
        UserError: The folder is neither.
    """
    if runs := sweep.load(run / record.FOLDER):
        return "\n\n".join(_report(Path(path)) for path, _ in runs)
    return _report(run)


def _report(run: Path) -> str:
    entry, written = record.load(run), events.read(run)
    if entry is None and not written:
        raise UserError(f"{run} is not a run: name its run_dir")
    state = entry.state if entry else ""
    ended = bool(written) and written[-1]["event"] == "end"
    lines = [str(run), f"  state      {_state(entry, state, ended)}"]
    for event in [event for event in written if event["event"] == "requeued"]:
        lines.append(f"  restart {event['restart']}  {event['reason']}")
    lines += [f"  {title:<9}  {text}" for title, text in _numbers(run).items()]
    if entry and not ended and state.split(" ")[0].rstrip("+") in BAD:
        lines += _failure(entry)
    return "\n".join(lines)


def _state(entry: Record | None, state: str, ended: bool) -> str:
    if entry is None:
        return "finished" if ended else "started without launch/slurm.py"
    if state == "PENDING":
        state = f"PENDING ({scheduler.pending_reason(entry.job)})"
    return f"{'finished, ' if ended else ''}job {entry.job} {state or 'is no longer in the queue'}"


def _numbers(run: Path) -> dict[str, str]:
    step: dict[str, Any] = events.last(run, "step")
    texts = {}
    if step:
        losses = "  ".join(f"{key} {value:.4f}" for key, value in step.items() if key.startswith("loss"))
        texts["last step"] = (
            f"epoch {step['epoch']}  step {step['step']}  {losses}  {step['images_per_second']:,.0f} images/s"
        )
    if numbers := results.measured(run):
        texts["last eval"] = "  ".join(f"{name} {100 * share:.2f}" for name, share in numbers.items())
    if failure := events.last(run, "failure"):
        texts["failure"] = str(failure["message"])
    return texts


def _failure(entry: Record) -> list[str]:
    """The end of the log of the first failed rank, or, if it is empty, of rank 0."""
    folder = Path(entry.folder)
    first = folder / f"{entry.job}_0_log.err"
    if not first.exists():
        return [f"  no log in {folder}: perhaps it is not shared with the nodes; choose a shared --run_dir"]
    failed = re.findall(r"^srun: error: \S+: tasks? (\d+)", _last_attempt(first), re.MULTILINE)
    logs = [folder / f"{entry.job}_{rank}_log.err" for rank in failed[:1]]
    log = next((log for log in logs if _last_attempt(log).strip()), first)
    return [f"  {log}:", *(f"  | {line}" for line in _last_attempt(log).splitlines()[-TAIL:])]


def _last_attempt(log: Path) -> str:
    """The part of the log since the last restart."""
    return log.read_text(errors="replace").rpartition("\nrestart ")[2] if log.exists() else ""
