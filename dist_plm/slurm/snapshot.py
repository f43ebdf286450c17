"""Code snapshot of a submission: a job must run the code it was submitted with, hours later."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dist_plm",)
BYTECODE = "__pycache__"


def take(folder: Path) -> Path:
    """Copy the package with its data, including uncommitted changes, to `folder`/code-HASH.

    The same code is copied once. An existing copy is untrusted, like the rest of a run directory: it is replaced
    unless it has exactly these files.
    """
    files = [path for name in PACKAGES for path in _files(ROOT / name)]
    digest = _digest(files, ROOT)
    target = folder / f"code-{digest[:12]}"
    if target.is_symlink() or (target.exists() and not _is_copy(target, digest)):
        target.rename(half := folder / f".{target.name}.old")
        _remove(half)
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
    """The git commit of the code, with `-dirty` for uncommitted changes; empty outside of git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _files(root: Path) -> list[Path]:
    """Sources and package data below `root`, sorted, configs/ behind its link too; not what Python compiled."""
    paths = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return sorted(path for path in paths if path.is_file() and BYTECODE not in path.parts)


def _digest(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_copy(target: Path, digest: str) -> bool:
    """Whether the files below `target` have this digest; removes bytecode, which would take precedence."""
    for compiled in list(target.rglob(BYTECODE)):
        _remove(compiled)
    return not any(path.is_symlink() for path in target.rglob("*")) and _digest(_files(target), target) == digest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
