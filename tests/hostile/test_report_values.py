"""Values of a run from elsewhere in its report: texts, and nothing else, whatever they hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dist_plm.config import Config, DataConfig, TrainConfig
from dist_plm.distributed.world import World
from dist_plm.telemetry.progress import Display
from dist_plm.training.run_directory import dump

TEXTS = [
    "</script><img src=x onerror=alert(1)>",
    "\"><svg/onload=alert(1)>'",
    "{{ 7 * 191 }}{% raw %}",
    "<!--<script>",
    "\u2028alert(1)//]]>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_no_value_becomes_markup(tmp_path: Path, text: str) -> None:
    page = pytest.importorskip("dist_plm.report.page")
    run = tmp_path / "run"
    run.mkdir()
    config = replace(
        Config(), train=TrainConfig(wandb=text), data=DataConfig(shards=str(tmp_path / "none"), test_split=text)
    )
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    recall = {"1": 0.5}
    events = [
        {"event": "eval", "step": 0, "epoch": 0, "model": text, "when": text, "recall": recall, "map_at_r": 0.1},
        {"event": "warning", "step": 0, "message": text},
        {"event": "forced", "step": 0, "changed": {text: [text, text]}},
        {"event": "failure", "step": 0, "message": text},
        {"event": "profile", "step": 0, "steps": 1, "seconds": {text: 1.0}},
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    out = tmp_path / "report.html"
    page.write_report([run], out, world=World(), display=Display(World()))
    html = out.read_text(encoding="utf-8")
    assert "onerror=" in html or "onload=" in html or "1337" not in html  # told, as text
    for live in ("<img src=x", "<svg/onload", "1337", "<!--<script>"):
        assert live not in html
