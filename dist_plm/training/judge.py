"""Compares the networks of a run with the network before training, by labels if there are any, and without labels."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dist_plm.checkpoint.position import Position
from dist_plm.data.place import is_url
from dist_plm.data.store import Store
from dist_plm.errors import UserError
from dist_plm.evaluation.label_free import STRONG_RECALL, Estimate, overlap
from dist_plm.evaluation.verdict import Verdict, recall_verdict, view_verdict
from dist_plm.index.embedding_pass import Embed
from dist_plm.training.context import RunContext
from dist_plm.training.held_out import LEAST, HeldOut, HeldOutViews
from dist_plm.training.start_record import StartRecord

BASELINES = {"frozen": "the frozen features", "raw pixels": "raw pixels"}


@dataclass(frozen=True)
class Judge:
    """Verdicts on the networks of a run, in the terminal and in metrics.jsonl."""

    run: RunContext

    @cached_property
    def record(self) -> StartRecord:
        """Stored results of the initial network."""
        return StartRecord(self.run.directory.path / "start")

    @cached_property
    def held_out(self) -> HeldOut:
        """The images on which networks are compared: those recorded at the start, if any."""
        return HeldOut(self.run)

    def start(self, embed: Embed, front: Embed | None, at: Position, hits: dict[str, np.ndarray]) -> None:
        """Record the network before the first step. A collective.

        Args:
            embed: Embeds by the student, of which the teacher is a copy.
            front: The frozen part before it, see `HeldOut.embed`.
            hits: Hits of the start and of BASELINES, by name, see `Evaluation.hits`; empty without labels.
        """
        views = self._views(embed, front)
        if not self.run.world.is_first:
            return
        self.record.clear()
        for name, model_hits in hits.items():
            self.record.save_hits(name, model_hits)
        if views is not None:
            self.record.save_views(self.held_out.ids, views)
            if not is_url(self.run.config.data.shards):  # at a URL each line would be a request
                self.record.save_list([_source(self.held_out.store, int(id)) for id in self.held_out.ids])
            self.run.log.display.say(
                f"label-free comparison: {self.held_out.described}, two random and two strong views each"
            )
            self._write(views, at, "student", "start", values=views.statistics())

    def look(
        self, embed: Embed, front: Embed | None, at: Position, model: str, when: str, hits: np.ndarray | None
    ) -> float | None:
        """Compare a network with the start, and print the verdict. A collective.

        Returns:
            View recall, mean of random and strong views; None if there are too few images.
        """
        if (kept := self.run.world.from_first(lambda: self.record.ids(len(self.held_out.store)))) is not None:
            self.held_out.ids = kept
        views = self._views(embed, front)
        return self.run.world.from_first(lambda: self._compare(views, at, model, when, hits))

    def _views(self, embed: Embed, front: Embed | None) -> HeldOutViews | None:
        return self.held_out.embed(embed, front) if len(self.held_out.ids) >= LEAST else None

    def _compare(
        self, views: HeldOutViews | None, at: Position, model: str, when: str, hits: np.ndarray | None
    ) -> float | None:
        verdict, score = None, None
        if views is not None:
            verdict, score = self._without_labels(views, at, model, when)
        before = self.record.hits("start")
        if hits is not None and before is not None and len(before) == len(hits):
            verdict = recall_verdict(model, at.step, hits, before, self._baselines(len(hits)))
        if verdict:
            said = {"verdict": verdict.word, "basis": verdict.basis, "text": verdict.text}
            self.run.log.metrics.write("verdict", step=at.step, epoch=at.epochs, model=model, when=when, **said)
            self.run.log.display.say(f"{when:>20}  {model:<10}  {verdict.text}")
        return score

    def _baselines(self, queries: int) -> dict[str, np.ndarray]:
        """Hits of the baselines without training, by display name."""
        baselines = {said: self.record.hits(name) for name, said in BASELINES.items()}
        return {said: hits for said, hits in baselines.items() if hits is not None and len(hits) == queries}

    def _without_labels(self, views: HeldOutViews, at: Position, model: str, when: str) -> tuple[Verdict | None, float]:
        values, start = views.statistics(), self.record.views()
        score = (values["view_recall"].value + values[STRONG_RECALL].value) / 2
        if start is None or start.evaluation.shape != views.evaluation.shape:
            self._write(views, at, model, when, values=values)
            return None, score
        changes = views.change_since(start)
        moved = 1 - float(overlap(views.neighbours, start.neighbours).mean())
        self._write(views, at, model, when, values=values, changes=changes, neighbours_changed=moved)
        return view_verdict(model, at.step, changes, values, moved), score

    def _write(
        self, views: HeldOutViews, at: Position, model: str, when: str, *,
        values: dict[str, Estimate], changes: dict[str, Estimate] | None = None, **more: float,
    ) -> None:  # fmt: skip
        """Log the statistics and their standard errors."""
        numbers = {"values": values} if changes is None else {"values": values, "changes": changes}
        parts: dict[str, dict[str, float]] = {}
        for name, estimates in numbers.items():
            parts[name] = {key: estimate.value for key, estimate in estimates.items()}
            parts[f"{name}_error"] = {key: estimate.error for key, estimate in estimates.items()}
        self.run.log.metrics.write(
            "label_free", step=at.step, epoch=at.epochs, model=model, when=when, images=len(views.first),
            split=self.held_out.store.split, **parts, **more,
        )  # fmt: skip


def _source(store: Store, id: int) -> str:
    """The path of the file that an image was built from; empty if the shard does not record it."""
    with suppress(UserError):
        return str(store.about(id).get("source", ""))
    return ""
