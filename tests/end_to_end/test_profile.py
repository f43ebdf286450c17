"""`--profile`: a trace with the parts of a step, and a table; the run goes on as without."""

import json

from dist_plm import train as training
from dist_plm.telemetry.profile import ADVICE
from tests.end_to_end.conftest import events

PARTS = {"decode", "copy", "student", "teacher", "neighbourhoods", "losses", "gather", "optimiser", "ema", "other"}


def test_profile(tmp_path, tiny, here):
    run = tmp_path / "run"
    arguments = ("--warm_up.epochs", 0, "--train.epochs", 3, "--train.max_steps", 14, "--evaluation.nmi", "false")
    outcome = here(training.main, "--config", tiny, "--run_dir", run, "--profile", *arguments)
    assert outcome.status == 0, outcome.err
    (profile,) = events(run, "profile")
    assert profile["steps"] == 10 and profile["seconds"].keys() <= ADVICE.keys()
    assert PARTS - {"gather"} <= profile["seconds"].keys()  # one rank gathers nothing
    assert "bottleneck: " in outcome.err
    named = {event.get("name") for event in json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]}
    assert {f"part: {name}" for name in PARTS - {"gather", "other"}} <= named
    assert len(events(run, "step")) == 14 and events(run, "end")
