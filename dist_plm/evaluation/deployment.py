"""Selects the best network of a finished run from its metrics.jsonl, and prints the commands that use it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.checkpoint.checkpoint import candidates
from dist_plm.checkpoint.retention import BEST, best_checkpoint
from dist_plm.config import Config
from dist_plm.evaluation.label_free import STRONG_RECALL
from dist_plm.telemetry import events

NETWORKS = ("student", "teacher")
VIEWS = "view recall"  # mean of random and strong views, also the criterion of `checkpoint.keep_best`


@dataclass(frozen=True)
class Deployment:
    """The network of a run that did best.

    Args:
        model: student or teacher; `start`, where every network of the run is worse than what it started from.
        step: Of the checkpoint.
        checkpoint: What `--checkpoint` names: the run, or the checkpoint if that is not the newest.
        evidence: For people.
    """

    model: str
    step: int
    checkpoint: Path
    evidence: str

    def named(self, config: Config) -> str:
        """The network that `embed_words` names, for people."""
        if self.model != "start":
            return f"{self.model} of step {self.step}"
        # `embed` can compute a whitening, but no other head that a run starts with.
        headless = "" if config.model.head_start == "whitened" else "the features, without the head, of "
        return f"{headless}the start, without training"

    def embed_words(self, config: Config) -> list[str]:
        """Options of `dist-plm embed` that name the network."""
        if self.model != "start":
            return ["--checkpoint", str(self.checkpoint), "--model", self.model, *code_words(config)]
        model, views = config.model, config.views
        words = ["--backbone", model.backbone, "--weights", model.weights, "--pooling", model.pooling]
        words += ["--size", str(views.size), "--resize", str(views.resize)]
        if model.head_start == "whitened":
            words += ["--whiten", config.data.shards, "--dim", str(model.dim)]
        return words


def deployment(run: Path, config: Config) -> Deployment | None:
    """The network with the highest recall@1, without labels the one that finds another view of an image most often.

    Candidates are student and teacher of the newest checkpoint and of the one that is linked as best. None without a
    checkpoint.
    """
    kept = {int(path.name.removeprefix("step_")): path for path in reversed(candidates(run / "checkpoints"))}
    if not kept:
        return None
    newest, best = max(kept), best_checkpoint(run / "checkpoints")
    steps = {newest, *(step for step, path in kept.items() if path == best)}
    scores: dict[str, dict[tuple[int, str], float]] = {"R@1": {}, VIEWS: {}}
    said: dict[tuple[int, str], dict[str, Any]] = {}
    for event in events.read(run, "eval", "verdict", "label_free"):
        at = (event.get("step", 0), str(event.get("model")))
        if at[0] not in steps or at[1] not in NETWORKS:
            continue
        if event["event"] == "eval":
            scores["R@1"][at] = float(next(iter(event["recall"].values())))
        elif event["event"] == "label_free" and {"view_recall", STRONG_RECALL} <= event["values"].keys():
            scores[VIEWS][at] = (event["values"]["view_recall"] + event["values"][STRONG_RECALL]) / 2
        elif event["event"] == "verdict":
            said[at] = event
    name = next((name for name, measured in scores.items() if measured), "")
    if not name:
        return Deployment("student", newest, run, "no evidence: neither labels nor a comparison with the start")
    values = scores[name]
    step, model = at = max(sorted(values, key=lambda place: place[1]), key=lambda place: values[place])
    if said and all(event.get("verdict") == "worse" for event in said.values()):
        word = "every network of this run is worse than its start"
        return Deployment(
            "start", 0, run, f"{word}; {model} of step {step}: {said[at]['text']}" if at in said else word
        )
    evidence = said[at]["text"] if at in said else f"{name} {100 * values[at]:.1f} %"
    return Deployment(model, step, run if step == newest else run / "checkpoints" / BEST, evidence)


def code_words(config: Config) -> list[str]:
    """Options by which a command that reads a run or an index may import your own network; none for other networks."""
    return ["--backbone", config.model.backbone] if ":" in config.model.backbone else []


def next_commands(choice: Deployment, config: Config) -> list[str]:
    """Commands to run after training, one per line."""
    run = Path(config.run_dir)
    words, code = shlex.join(choice.embed_words(config)), "".join(f" {word}" for word in code_words(config))
    lines = [f"dist-plm embed {words} --images PHOTOS --out {run / 'index'}"]
    lines += [f"dist-plm serve {run / 'index'}{code}", f"dist-plm search {run / 'index'} --image PICTURE{code}"]
    if choice.model != "start":
        lines.append(f"dist-plm export {words}")
    return [*lines, f"dist-plm report {run}{code}"]


def summary(choice: Deployment | None, config: Config) -> str:
    """The network to use, its evidence, and the next commands."""
    if choice is None:
        return f"{config.run_dir} holds no checkpoint: there is no network to use yet"
    commands = [f"  {command}" for command in next_commands(choice, config)]
    return "\n".join([f"use {choice.named(config)} ({choice.evidence})", "next:", *commands])
