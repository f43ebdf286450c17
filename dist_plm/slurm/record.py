"""Record of a submission: the job, its folder of scripts and logs, and the command line."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import read_document
from dist_plm.slurm import scheduler

FOLDER = "launch"
JOB = "job.json"


@dataclass(frozen=True)
class Record:
    """A submission.

    Args:
        job: Slurm's number, NUMBER_INDEX in an array, or the local controller's process.
        where: The submitit executor.
        folder: Scripts, logs and notes.
        commit: Git commit of the code snapshot.
        line: The command line.
        submitted: UTC, ISO 8601.
    """

    job: str
    where: str
    folder: str
    commit: str
    line: list[str]
    submitted: str

    def save(self, run: Path) -> None:
        """Write RUN/launch/job.json."""
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        with replacing(run / FOLDER / JOB) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())

    @property
    def is_active(self) -> bool:
        """Whether the job is pending or running."""
        if self.where == "slurm":
            return scheduler.is_queued(self.job)
        command = Path(f"/proc/{self.job}/cmdline")
        return command.exists() and b"submitit" in command.read_bytes()

    @property
    def state(self) -> str:
        """Slurm's state of the job; empty if unknown."""
        return scheduler.state(self.job) if self.where == "slurm" else "RUNNING" if self.is_active else ""


def load(run: Path) -> Record | None:
    """The newest submission of a run; None if it was started otherwise. Raises UserError if damaged."""
    path = run / FOLDER / JOB
    if not path.exists():
        return None
    try:
        loaded = Record(**read_document(path))
        # The number is used in file names and arguments of Slurm commands.
        if not re.fullmatch(r"[0-9]{1,18}(_[0-9]{1,9})?", loaded.job) or not isinstance(loaded.folder, str):
            raise ValueError(f"job {loaded.job!a:.80}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a record of a job ({error}): delete it if it is not yours") from error
    return loaded
