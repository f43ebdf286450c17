"""The parts of a `fit` in order; each finds what an earlier start left and continues there.

RUN/shards      the data set, unless one was named
RUN/fit.yaml    the settings that were chosen, for `dist-plm train --config`
RUN/fit.json    the images, and what was typed, by which a later start knows that the choice still holds
RUN/...         what `train` writes
RUN/index       the index, by `embed`
"""

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from dist_plm.checks import check
from dist_plm.checks.values import check_values
from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.config.fields import entries
from dist_plm.data.format import Manifest
from dist_plm.datasets.assembly import writing
from dist_plm.distributed.preemption import PREEMPTED
from dist_plm.errors import UserError
from dist_plm.evaluation.deployment import Deployment, code_words, deployment
from dist_plm.files.atomic import replacing
from dist_plm.fit.asked import Asked
from dist_plm.fit.choice import Choice, choose, network
from dist_plm.fit.collection import examine
from dist_plm.fit.machine import Machine
from dist_plm.fit.photos import Photos
from dist_plm.fit.ranks import run_ranks
from dist_plm.fit.record import record, recorded
from dist_plm.fit.weights import Start, start_from
from dist_plm.model.backbones import check_model
from dist_plm.model.own_backbone import check_own, is_own
from dist_plm.telemetry.progress import duration
from dist_plm.training.begun import has_checkpoint, plain
from dist_plm.training.run_directory import RunDirectory, dump

STOPPED = (PREEMPTED, 130, -2, -15)


@dataclass
class Run:
    """One `fit`.

    Args:
        photos: The images.
        out: Run directory.
        asked: What was typed.
    """

    photos: Photos
    out: Path
    asked: Asked
    seconds: dict[str, float] = field(default_factory=dict)  # that each part took in this start

    def run(self, *, plan: bool) -> int:
        """All parts that are left; the exit status.

        Raises:
            UserError: it can't start.
        """
        if not recorded(self.out).get("typed"):
            self._check_asked()
        shards = self._timed("data set", lambda: self.photos.build(self.out))
        config, ranks = self._settings(shards)
        if plan:
            return 0
        if not RunDirectory(config, force=True).ended or not has_checkpoint(self.out):
            words = ["--config", str(self.out / "fit.yaml")]
            if status := self._timed("training", lambda: run_ranks("dist_plm.fit.part", words, ranks)):
                return self._stopped(status)
        found = deployment(self.out, config)
        words = found.embed_words(config) if found else ["--checkpoint", str(self.out), *code_words(config)]
        if status := self._index(shards, words):
            return self._stopped(status)
        self._end(found, config)
        return 0

    def _check_asked(self) -> None:
        """What can be checked of the given settings before a data set is built.

        Raises:
            UserError: A value is out of bounds, or there is no such network, or no such file of weights.
        """
        check_values(self.asked.config)
        if any(self.asked.has(f"model.{key}") for key in NETWORK):
            start = self._start()
            check_model(replace(self.asked.config.model, backbone=start.backbone, weights=start.weights))

    def _start(self) -> Start:
        """The network to start from."""
        model = self.asked.config.model
        return start_from(*(getattr(model, key) if self.asked.has(f"model.{key}") else "" for key in NETWORK))

    def _settings(self, shards: str) -> tuple[Config, int]:
        """The configuration and the number of ranks: those that the run was begun with, or chosen now."""
        typed = self._typed(shards)
        if {"typed", "ranks"} <= (known := recorded(self.out)).keys():
            now = self._values(known["typed"]) | typed
            if known["typed"] == now:
                print(f"{self.out}: settings of its first start, {self.out / 'fit.yaml'}", flush=True)
                config = load_config(self.out / "fit.yaml")
                if is_own(config.model.backbone):
                    check_own(config.model.backbone)  # a file in the folder names code, but the user must have too
                return config, self.asked.ranks or int(known["ranks"])
            if has_checkpoint(self.out):
                changed = sorted(key for key in now if now[key] != known["typed"].get(key))
                raise UserError(
                    f"{self.out} was started with another {', '.join(changed)}: rerun that command to resume it, or "
                    "choose another --out"
                )
        choice = self._timed("choice of settings", lambda: self._choose(shards))
        self._say(choice)
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            with replacing(self.out / "fit.yaml") as file:
                file.write(dump(choice.config).encode())
        record(self.out, {"typed": typed, "ranks": choice.ranks})
        return choice.config, choice.ranks

    def _typed(self, shards: str) -> dict[str, Any]:
        """Inputs of the choice, as JSON."""
        given = {key: value for key, value, _ in entries(self.asked.config) if self.asked.has(key)}
        fixed = {"images": str(self.photos.path.resolve()), "minutes": self.asked.minutes}
        return dict(json.loads(json.dumps({**plain(given), **fixed})))

    def _values(self, recorded: Collection[str]) -> dict[str, Any]:
        """Values in force of keys that fit.json records: older versions recorded more than was typed."""
        values = {key: value for key, value, _ in entries(self.asked.config) if key in recorded}
        return dict(json.loads(json.dumps(plain(values))))

    def _choose(self, shards: str) -> Choice:
        machine, collection = Machine.here(), examine(shards)
        _show(f"machine: {machine}")
        _show(f"images: {collection}")
        start = self._start()
        config = network(self.asked, start, collection)
        choice = choose(self.asked, config, start, collection, machine, machine.rehearsal)
        check(choice.config, choice.ranks)  # as `train` will
        return choice

    def _say(self, choice: Choice) -> None:
        print()
        _show(f"chosen ({self.out / 'fit.yaml'}; any --section.key VALUE overrides):")
        for name, value, why in choice.rows:
            _show(f"  {name:<10} {value}" + (f"  ({why})" if why else ""), hanging=13)
        for warning in choice.warnings:
            _show(f"warning: {warning}", to=sys.stderr)
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in choice.seconds.items())
        _show(f"about {duration(sum(choice.seconds.values()))} from here: {parts}")
        print(flush=True)

    def _index(self, shards: str, network: list[str]) -> int:
        """Embed all images, unless the index is there."""
        index = self.out / "index"
        if index.exists():
            return 0
        words = [*network, *self.photos.embed_words(shards, list(Manifest.load(shards).splits)), "--out", str(index)]
        return self._timed("index", lambda: run_ranks("dist_plm.embed", words))

    def _end(self, found: Deployment | None, config: Config) -> None:
        took = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items() if seconds >= 1)
        print()
        _show(f"done in {duration(sum(self.seconds.values()))}: {took}")
        if found:
            _show(f"network of the index:  {found.named(config)} ({found.evidence})", hanging=23)
        code = "".join(f" {word}" for word in code_words(config))
        print(f"open the search page:  dist-plm serve {self.out / 'index'}{code}")
        print(f"search by a picture:   dist-plm search {self.out / 'index'} --image PICTURE{code}")
        if self.photos.kind == "folder":
            print(f"after images changed:  dist-plm index update {self.out / 'index'}{code}")

    def _stopped(self, status: int) -> int:
        if status in STOPPED:
            print("stopped; rerun the command to resume", file=sys.stderr)
            return PREEMPTED
        return status if status > 0 else 1

    def _timed(self, part: str, act: Any) -> Any:
        started = time.monotonic()
        try:
            return act()
        finally:
            self.seconds[part] = time.monotonic() - started


NETWORK = ("backbone", "weights")


def _show(text: str, *, hanging: int = 2, to: TextIO | None = None) -> None:
    """Print a line, on a terminal wrapped between words and with a hanging indent."""
    to = to or sys.stdout
    if to.isatty():
        width, hung = shutil.get_terminal_size().columns, " " * hanging
        text = textwrap.fill(text, width, subsequent_indent=hung, break_long_words=False, break_on_hyphens=False)
    print(text, file=to, flush=True)
