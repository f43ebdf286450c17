"""The code that a run was submitted with: what comes back after hours in the queue must be what went in."""

import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "dist_plm"


def take(folder: Path) -> Path:
    """Copy the package as it is, with uncommitted changes, to `folder`/code-HASH; the same code is copied once."""
    found = [path for path in (ROOT / PACKAGE).rglob("*") if path.is_file()]
    files = sorted(path for path in found if "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    target = folder / f"code-{digest.hexdigest()[:12]}"
    if not target.exists():
        half = folder / f".{target.name}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        for path in files:
            copy = half / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        half.rename(target)
    return target


def commit() -> str:
    """The commit that the code was at, with `-dirty` where it had been changed; empty outside of git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
