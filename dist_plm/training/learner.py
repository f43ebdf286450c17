"""Student, momentum encoder, method and optimiser, and the training step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_plm.checkpoint.checkpoint import Sharded, State
from dist_plm.config import Config
from dist_plm.data.loader import Batch
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.index.embedding_pass import Embed
from dist_plm.index.rows import Rows
from dist_plm.manifold import effective_rank, mean_pair_distance
from dist_plm.manifold.precision import ieee_products
from dist_plm.methods import Loss, Points, build_method
from dist_plm.model import Encoder, Teacher
from dist_plm.model.encoder import Heads
from dist_plm.model.preprocessing import check_size
from dist_plm.model.split import Joined, Trained, freeze_unused, split
from dist_plm.parallel.compiled import compiled
from dist_plm.parallel.optimiser import build_updates, forget, learning_rate, state_by_name
from dist_plm.parallel.side_stream import SideStream
from dist_plm.parallel.skipped_steps import SkippedSteps
from dist_plm.parallel.strategy import build_strategy, cuts_weights, method_dtype
from dist_plm.telemetry.parts import part
from dist_plm.training.head_start import fit_heads
from dist_plm.training.phases import Phase, phases

__all__ = ["Learner", "Phase", "Report", "phases"]


@dataclass(frozen=True)
class Report:
    """Result of a step, on the device: its loss and the student's embeddings [b, D].

    Args:
        leaving: Whether all ranks know of a signal to exit; the same on all ranks.
    """

    loss: Loss
    z: Tensor
    leaving: bool


class Learner:
    """The networks of a run on this rank, in the current phase.

    Args:
        classes: Number of classes of the training split; only supervised methods use it.
        network: A backbone module instead of `model.backbone`.

    Attributes:
        encoder: The student's network from images to points.
        frozen: Its frozen first part, shared with the teacher; None if everything is trainable.
        student: The trainable part: the encoder, or what follows `frozen`.
        teacher: The momentum encoder of `student`.
        shares: Points of a global batch on each rank.
    """

    def __init__(
        self, config: Config, world: World, phase: Phase, classes: int = 1, *, network: nn.Module | None = None
    ) -> None:
        self.config, self.world, self.classes = config, world, classes
        self.shares = batch_shares(config, world.size).times(config.views.count)
        self.method_dtype = method_dtype(config)
        dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
        encoder = Encoder(config.model, network=network, seed=config.seed, all_reduce_sum=world.sum)
        # Channels-last: 2.2 x the speed of the forward pass on a CPU core; tensor cores on a GPU.
        encoder = encoder.to(world.device, dtype).to(memory_format=torch.channels_last)
        check_size(encoder, config.model.backbone, config.views.size)
        layers = config.optimiser.layer_decay != 1
        self._split = split(encoder, config.model, config.views.size, seed=config.seed, layers=layers)
        self._begin(phase, encoder)

    def start_heads(self, features: Callable[[Embed], Rows]) -> None:
        """Initialise the heads as `model.head_start` says, before the first step. A collective.

        Args:
            features: Called with a function from views to pooled features; returns those of all training images [n, C].
        """
        encoder = self._released()
        self.frozen, part = self._split.parts(encoder)  # released weights may be in another module
        fit_heads(encoder, self.config.model, lambda: features(self.pooled_by(part)), self.world)
        self._begin(self.phase, encoder)

    def pooled_by(self, part: nn.Module) -> Embed:
        """Function from views, or cached features, to the pooled features [b, F] that are the input of the heads."""
        assert isinstance(part, Heads)

        @torch.no_grad()
        def pooled(views: Tensor) -> Tensor:
            part.eval()
            with self.strategy.autocast():
                if self.config.views.cached:
                    views = self._entering(views)
                elif self.frozen is not None:
                    views = self.frozen(views)
                return part.pooled(views)  # type: ignore[operator]

        return pooled

    def frozen_state(self) -> dict[str, Tensor]:
        """Weights and buffers of the frozen part, by their names in the encoder."""
        trained = self.student.state_dict()
        return {name: value for name, value in self.encoder.state_dict().items() if name not in trained}

    def enter(self, phase: Phase) -> None:
        """Start a phase: phi_0 = theta_0, new parameters of the method, new optimizer state. A collective."""
        self._begin(phase, self._released())

    def _released(self) -> Encoder:
        """The whole encoder with the student's current weights. A collective."""
        student = self.strategy.release()
        return student.put_into(self.encoder) if isinstance(student, Trained) else student  # type: ignore[return-value]

    def _begin(self, phase: Phase, encoder: Encoder) -> None:
        config = self.config
        self.phase, self.encoder = phase, encoder
        self.frozen, self.student = self._split.parts(encoder)
        if not encoder.known:
            self._freeze_unused()
        student = self.student
        self.teacher = Teacher(student, config.model.momentum, share=not cuts_weights(config))
        self._teacher_forward = compiled(self.teacher) if config.runtime.compile else self.teacher
        method = build_method(phase.method, config, self.world, self.classes)
        self.method = method.to(self.world.device, self.method_dtype)
        updates = build_updates(
            student.backbone.parameters(),  # type: ignore[union-attr]
            student.head_parameters(),
            self.method.trained(),
            config.optimiser,
            method_lr_scale=config.proxies.lr_scale,
            layers=self._split.scales(student, config.optimiser.layer_decay),
        )
        with self.world.waiting("comparison of the networks"):  # by DDP and DeepSpeed
            self.strategy = build_strategy(config, student, self.teacher, updates, self.world)
        self.side_stream = SideStream(self.world.device if self.strategy.overlaps else torch.device("cpu"))
        self.skipped = SkippedSteps(self.world.device)

    def _freeze_unused(self) -> None:
        size, weight = self.config.views.size, self.encoder.head.weight
        images = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
        freeze_unused(self.student, self.frozen(images) if self.frozen else images)

    def step(self, batch: Batch, step: int, steps: int) -> Report:
        """One optimization step on this rank's part of the global batch: step `step` of the phase's `steps`."""
        views, epoch = self._entering(batch.views), step * self.phase.epochs // steps
        self.rate = learning_rate(self.config.optimiser, self.phase.lr, step, steps, epoch)
        self.strategy.updates.set_learning_rate(self.rate, epoch)
        self.student.train()

        self.side_stream.follow()
        with part("student"):
            embedded = self.strategy.embed(views)
        with self.side_stream.work():
            x, prepared = self._look(views, batch) if self.method.reads_teacher else (None, None)
        self.side_stream.join()
        x = embedded if x is None else x
        sound = embedded.detach().isfinite().all() & x.isfinite().all()
        z, x = self._usable(embedded).requires_grad_(), self._usable(x)
        with part("losses"), ieee_products():
            loss = self.method(self._points(z, x, batch, prepared=prepared, sound=sound, step=step, epoch=epoch))
            with self.world.waiting("reduce-scatter of dL/dz"):
                loss.share.backward()
        assert z.grad is not None
        with part("student"), self.world.waiting("all-reduce of gradients"):
            self.strategy.backward(views, embedded, z.grad)

        sound = sound & loss.share.detach().isfinite()
        # The gradients are already summed: they can't tell which rank was not finite.
        finite = self.strategy.finite() | self.strategy.overflow
        skip, leaving = self.world.end_of_step(~(sound & finite))
        self.skipped.add(~sound, skip, step)
        with part("optimiser"), self.world.waiting("the optimiser's step"):
            self.strategy.step(torch.maximum(skip, self.strategy.overflow.to(skip)))
        with part("ema"):
            self.teacher.update(self.student, self.strategy.local)
        self.side_stream.follow()  # an allocator short of memory may unmap x when the second stream is done
        return Report(loss, z.detach()[:, : self.config.model.dim], leaving)

    def _entering(self, views: Tensor) -> Tensor:
        """Input of the trainable part [b, ...]: the views if nothing is frozen."""
        if self.frozen is None:
            return views
        if self.config.views.cached:
            return views.to(self.encoder.head.weight.dtype)
        with part("frozen"):
            pieces = views.chunk(self.config.batch.micro_batches)
            return torch.cat([self.strategy.embed_constant(self.frozen, piece) for piece in pieces])

    def whole(self, name: str) -> nn.Module:
        """The `student` or `teacher`, with the same names of weights, as one module from images [b, 3, h, w], or cached
        features, to embeddings [b, D]; release it soon, since it may hold a copy of sharded weights. A collective."""
        network = self.strategy.whole(self.student if name == "student" else self.teacher)
        network = network.encoder if isinstance(network, Teacher) else network
        return network if self.frozen is None or self.config.views.cached else Joined(self.frozen, network)

    def _look(self, entering: Tensor, batch: Batch) -> tuple[Tensor, Any]:
        """f_phi of the views [b, D + wide_dim], and the method's `prepare` of it, concurrent with the student."""
        with part("teacher"):
            x = self.strategy.embed_constant(self._teacher_forward, entering)
        neighbours = None if batch.neighbours is None else batch.neighbours.to(self.method_dtype)
        with part("losses"), ieee_products():
            return x, self.method.prepare(self._usable(x)[:, : self.config.model.dim], self.shares, neighbours)

    def _usable(self, embedded: Tensor) -> Tensor:
        """Detached, in the method's precision, non-finite rows replaced: an eigendecomposition would raise on them, and
        the result of a skipped step is not used."""
        return embedded.detach().nan_to_num().to(self.method_dtype)

    def _points(self, z: Tensor, x: Tensor, batch: Batch, **state: Any) -> Points:
        """The batch for a method: one row per view, heads separated."""
        views, dim = self.config.views.count, self.config.model.dim
        labels = None if batch.labels is None else batch.labels.repeat_interleave(views)
        return Points(
            z[:, :dim],
            x[:, :dim],
            views,
            self.shares,
            ids=batch.ids.repeat_interleave(views),
            labels=labels,
            student_wide=z[:, dim:],
            teacher_wide=x[:, dim:],
            **state,
        )

    def relabel(self, gallery: np.ndarray, labels: np.ndarray) -> None:
        """Pass new pseudo-labels [n] of the training images to the method, and reset its optimizer moments."""
        self.method.relabel(gallery, labels)
        if self.strategy.updates.method:
            forget(self.strategy.updates.method)

    def describe(self, report: Report) -> dict[str, float]:
        """Loss terms and statistics of a step over the global batch. A collective; synchronises the device."""
        loss, local_share = report.loss, len(report.z) / self.shares.total
        shares = {"loss": loss.share.detach(), **{f"loss_{name}": value for name, value in loss.terms.items()}}
        means = {name: value * local_share for name, value in loss.statistics.items()}
        names = [*shares, *means]
        totals = self.world.sum(torch.stack([*shares.values(), *means.values()])).tolist()
        z = self.world.gather_rows(report.z, self.shares)
        spread = {"mean_pair_distance": mean_pair_distance(z).item(), "effective_rank": effective_rank(z).item()}
        return dict(zip(names, totals, strict=True)) | spread

    def embed_with(self, network: nn.Module, *, wide: bool = False) -> Embed:
        """Function from views [b, 3, s, s] to embeddings [b, D], or to those of the wide head; without gradient."""
        head = slice(self.config.model.dim, None) if wide else slice(self.config.model.dim)

        def embed(views: Tensor) -> Tensor:
            network.eval()
            entering = self._entering(views) if self.config.views.cached else views
            with torch.no_grad(), self.strategy.autocast():
                return network(entering)[:, head]

        return embed

    def state(self) -> State:
        """All tensors of a run by name, to be saved, or to be loaded and passed to `restore`. A collective."""
        owned, strategy = self.method.state(), self.strategy
        student, teacher = (strategy.weights(network) for network in (self.student, self.teacher.encoder))
        # Frozen weights are saved once, as the student's.
        frozen = {} if self.frozen is None else self.encoder.state_dict()
        shared = self._shared()
        parts: dict[str, State] = {
            "student": {**{name: value for name, value in frozen.items() if name not in student}, **student},
            "teacher": {name: value for name, value in teacher.items() if name not in shared},
            "method": owned,
            "loss_scale": strategy.state(),
            "optimiser.student": strategy.moments(),
        }
        state = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.method.named_parameters()}
        moments = state_by_name(strategy.updates.method, names) if strategy.updates.method else {}
        for name, value in moments.items():
            rows = owned.get(name.rpartition(".")[0])
            # Moments have their parameter's shape and sharding; Adam's step counter is a scalar.
            split = isinstance(rows, Sharded) and value.ndim
            state[f"optimiser.method.{name}"] = Sharded(value, rows.rows) if split else value  # type: ignore[union-attr]
        return state

    def restore(self, state: State) -> None:
        """Restore from the tensors of `state`, loaded from a checkpoint, where they are copies. A
        collective."""
        student, shared = _part(state, "student."), self._shared()
        self.strategy.put_weights(self.student, student)
        common = {name: value for name, value in student.items() if name in shared}
        self.strategy.put_weights(self.teacher.encoder, {**common, **_part(state, "teacher.")})
        self.strategy.put_moments(_part(state, "optimiser.student."))

    def _shared(self) -> set[str]:
        """Names of frozen weights within the trainable part, which student and teacher share."""
        return {name for name, parameter in self.student.named_parameters() if not parameter.requires_grad}


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
