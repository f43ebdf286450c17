"""The examples of docs/python.md run as they stand, top to bottom."""

import re
import shutil
from pathlib import Path

import pytest

from dist_plm import embed as embedding
from dist_plm import train as training
from dist_plm.data.store import Store
from tests.commands import ROOT
from tests.end_to_end.conftest import Here


def test_the_examples_run(
    tmp_path: Path, finished: Path, demo: Path, tiny: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert len(blocks) == 7
    monkeypatch.syspath_prepend(tmp_path)  # PYTHONPATH=.
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        if "runs/mine" in block:  # the command above it, shorter
            own = ("--model.backbone", "my_networks:small_cnn", "--run_dir", "runs/mine", "--train.max_steps", 1)
            assert here(training.main, "--config", tiny, *own).status == 0
        exec(compile(block, f"docs/python.md, example {number}", "exec"), names)
    assert str(names["encoder"]) == "student of demo, step 15"
