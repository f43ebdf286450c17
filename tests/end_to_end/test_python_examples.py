"""The examples of docs/python.md run as they stand, top to bottom."""

import re
import shutil
from pathlib import Path

import pytest

from dist_plm import embed as embedding
from dist_plm.data.store import Store
from tests.commands import ROOT


def test_the_examples_run(tmp_path: Path, finished: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    with Store(demo, "test") as store:
        for id in range(24):
            path = tmp_path / "photos" / f"class {store.labels[id]}" / f"{id:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(id))
    arguments = ["--checkpoint", "runs/demo", "--images", "photos", "--out", "photos.index"]
    monkeypatch.setattr("sys.argv", ["embed", *arguments])
    assert embedding.main() == 0

    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/python.md, example {number}", "exec"), names)
    assert str(names["encoder"]) == "student of demo, step 21"
