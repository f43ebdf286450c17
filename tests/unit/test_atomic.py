"""What a power failure finds: the data are on the disk before the name is, and the name is when the block has ended."""

import os
from pathlib import Path

import pytest

from dist_plm.files.atomic import replacing


def test_data_then_name_then_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Path, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(("fsync", path, path.stat().st_size if path.is_file() else 0))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        calls.append(("replace", Path(target), Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    target = tmp_path / "file"
    with replacing(target) as file:
        file.write(b"seven b")
    temporary = tmp_path / ".file.tmp"
    assert calls == [("fsync", temporary, 7), ("replace", target, 7), ("fsync", tmp_path, 0)]
    assert target.read_bytes() == b"seven b" and not temporary.exists()


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(target) as file:
        file.write(b"new")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and target.read_bytes() == b"old"
