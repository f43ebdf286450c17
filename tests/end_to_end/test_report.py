"""The report: one file without network, its numbers those of the run, drawn by a real browser wide and narrow."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dist_plm import train as training
from dist_plm.cli import load_config
from dist_plm.distributed.world import World
from dist_plm.report import __main__ as reporting
from dist_plm.report import pictures
from dist_plm.report.history import History
from dist_plm.telemetry.progress import Display
from tests.end_to_end.conftest import contents, events

EVENTS = (
    {"event": "preempted", "step": 14, "signal": 15},
    {"event": "requeued", "restart": 1, "reason": "time limit"},
    {"event": "resumed", "step": 14, "world_size": 1},
    {"event": "profile", "step": 14, "steps": 10, "seconds": {"student": 0.3, "gather": 0.1}},
    {"event": "warning", "step": 15, "message": "<script>alert(1)</script>"},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A finished run that was also stopped, warned and profiled."""
    run = tmp_path_factory.mktemp("report") / "birds & <b>"
    shutil.copytree(finished, run)
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in EVENTS)
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    """Its report, written once."""
    from dist_plm.report.page import write_report

    before = contents(run)
    out = run.parent / "one.html"
    write_report([run], out, world=World(), display=Display(World()))
    assert contents(run) == before, "a report leaves the run alone"
    return out


def specs(page: Path) -> dict[str, dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON: no browser reads it")

    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page.read_text(), re.S)
    return {name: json.loads(text, parse_constant=refuse) for name, text in found}


def values(spec: dict) -> list[dict]:
    return next(layer["data"]["values"] for layer in [spec, *spec.get("layer", [])] if "data" in layer)


def test_one_file_that_asks_for_nothing(page):
    text = page.read_text()
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', markup) and "url(" not in markup
    assert "<script>alert" not in text and "birds &amp; &lt;b&gt;" in text
    assert len(text) < 4e6


def test_curves_are_the_run_s_numbers(page, run):
    drawn = specs(page)
    losses = [event for event in events(run, "step")]
    first = next(values(layer) for layer in drawn["losses-1"]["layer"] if "value" in values(layer)[0])
    assert [(row["step"], row["value"]) for row in first] == [(event["step"], event["loss"]) for event in losses]
    recall = next(values(layer) for layer in drawn["recall-1"]["layer"] if "value" in values(layer)[0])
    judged = [(event["step"], event["model"], event["recall"]["1"]) for event in events(run, "eval")]
    assert [(row["step"], row["model"], row["value"]) for row in recall] == judged
    marks = [row["what"] for layer in drawn["losses-1"]["layer"] for row in values(layer) if "what" in row]
    assert marks == ["plm begins", "preempted", "requeued", "resumed"]
    assert {"supervision-4", "spent", "profiled", "map-1", "reads-1"} <= drawn.keys()


def test_supervision_stands_beside_its_control(page, run):
    drawn = specs(page)
    purity = next(values(layer) for layer in drawn["supervision-1"]["layer"] if "value" in values(layer)[0])
    measured = [event for event in events(run, "step") if "label_purity" in event]
    for line, name in (("supervision", "label_purity"), ("control", "label_purity_control")):
        found = [(row["step"], row["value"]) for row in purity if row["of"] == line]
        assert measured and found == [(event["step"], event[name]) for event in measured]
    assert "supervision-5" not in drawn


def test_coverage_counts_the_plans(page, run):
    reads = np.zeros(100, dtype=int)
    for path in (run / "plans").glob("epoch_*.npy"):
        np.add.at(reads, np.load(path).ravel(), 1)
    rows = values(specs(page)["reads-1"])
    assert {row["reads"]: row["images"] for row in rows} == dict(
        zip(*np.unique(reads, return_counts=True), strict=True)
    )


def test_neighbours_before_and_after_are_those_of_the_start_and_the_student(page, run):
    """The share that changed is that of the last comparison without labels, which the run wrote."""
    last = [event for event in events(run, "label_free") if event["model"] == "student"][-1]
    changed = re.search(r"<b>(\d+) %</b> of the 10 nearest of (\d+) images of split test changed", page.read_text())
    assert changed and int(changed[2]) == last["images"] == 100
    assert abs(int(changed[1]) - 100 * last["neighbours_changed"]) < 1.5  # embedded in other batches: a tie may differ
    assert page.read_text().count('class="pair"') == 6


def test_the_gallery_says_what_the_evaluation_says(page, run):
    """As many nearest neighbours are right as the last evaluation counted; at most six classes, worst first."""
    last = [event for event in events(run, "eval") if event["model"] == "student"][-1]
    rows = values(specs(page)["map-1"])
    crosses = [row["nearest neighbour"] for row in rows]
    assert len(crosses) == last["queries"] and crosses.count("right") == round(last["recall"]["1"] * last["queries"])
    shares = [int(share) for share in re.findall(r"R@1 (\d+) %", page.read_text())]
    assert len(shares) == min(6, len({row["class"] for row in rows})) and shares == sorted(shares)


def test_without_images_the_numbers_are_shown(run, tmp_path, here):
    outcome = here(reporting.main, run, "--out", tmp_path / "bare.html", "--shards", tmp_path / "gone")
    assert outcome.status == 0 and "no pictures" in outcome.err, outcome.err
    text = (tmp_path / "bare.html").read_text()
    assert "No pictures: " in text and "losses-1" in specs(tmp_path / "bare.html")


def test_a_diverged_run_is_drawn_as_far_as_it_went(run, tmp_path, here, monkeypatch):
    """Numbers that are not finite are left out of the charts; a network that has them is not looked at."""
    path, out, load = tmp_path / "run", tmp_path / "report.html", pictures.load_network
    shutil.copytree(run, path)
    last, judged = events(run, "step")[-1], events(run, "eval")[-1]
    with (path / "metrics.jsonl").open("a") as file:
        for event in (last | {"step": 22, "loss": math.nan, "lr": math.inf}, judged | {"step": 22, "nmi": math.nan}):
            file.write(json.dumps(event) + "\n")

    def exploded(trained, name, device):
        embedder = load(trained, name, device)
        embedder.network.head.weight.fill_(math.nan)
        return embedder

    monkeypatch.setattr(pictures, "load_network", exploded)
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda code: code)  # takes seconds, and nothing is drawn
    outcome = here(reporting.main, path, "--out", out)
    assert outcome.status == 0 and "teacher's embeddings are not finite" in outcome.err, outcome.err
    assert out.read_text().count("No pictures: the teacher") == 1
    drawn = specs(out)
    assert {"losses-1", "speed-1", "reads-1"} <= drawn.keys() and "map-1" not in drawn
    steps = [event["step"] for event in events(run, "step")]
    assert [row["step"] for row in next(r for r in map(values, drawn["losses-1"]["layer"]) if "value" in r[0])] == steps


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, tiny, here, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    run = tmp_path / "run"
    outcome = here(training.main, "--config", tiny, "--run_dir", run, "--train.report", "true", "--train.max_steps", 2)
    assert outcome.status == 0 and "the run is intact" in outcome.err, outcome.err
    assert events(run, "end")


def test_in_a_browser(run, page, tmp_path, browser):
    """Alone and side by side, wide and narrow, light and dark: all charts drawn, no error, nothing sticks out."""
    from dist_plm.report.page import write_report

    other, both = tmp_path / "other", tmp_path / "both.html"
    shutil.copytree(run, other)
    write_report([run, other], both, shards=str(tmp_path / "gone"), world=World(), display=Display(World()))
    for file, width, scheme in ((page, 1280, "light"), (page, 400, "dark"), (both, 400, "light"), (both, 1280, "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(file.as_uri())
        wanted = len(specs(file))
        assert browser.execute_async_script(DRAWN, wanted) == wanted
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        broken = browser.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
        assert broken == 0, "an image does not decode"
        assert [entry["message"] for entry in browser.get_log("browser")] == []


# Charts that hold a picture of some size, once there are as many as wanted, or after 20 s.
DRAWN = """
const [wanted, done] = arguments, since = Date.now();
const count = () => [...document.querySelectorAll('.chart')].filter(
  c => [...c.querySelectorAll('svg, canvas')].some(p => p.getBoundingClientRect().width > 100)).length;
const look = () => count() === wanted || Date.now() - since > 20000 ? done(count()) : setTimeout(look, 50);
look();
"""


def test_no_query_finds_itself_where_the_gallery_is_the_test_split(run, tmp_path):
    """By either way of naming it the same neighbours are shown."""
    shown = []
    for gallery in ("", "test"):
        copy = tmp_path / f"gallery{gallery}"
        shutil.copytree(run, copy)
        config = load_config(copy / "config.yaml")
        config.data.gallery_split = gallery
        found = pictures.Pictures()
        world = World()
        history = History.read(copy, "run")
        pictures.take_pictures(found, history, ["run"], config=config, world=world, display=Display(world))
        shown.append((found.classes, found.confused))
    assert shown[0] == shown[1] and shown[0][0] and shown[0][0][0][1] < 1
