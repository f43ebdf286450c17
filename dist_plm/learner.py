"""What learns: student, momentum encoder, method and optimiser, and the one step that moves them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_plm.config import Config
from dist_plm.index.gallery import Embed
from dist_plm.manifold import effective_rank, mean_pair_distance
from dist_plm.methods import Loss, Points, build_method
from dist_plm.model import Encoder, Teacher
from dist_plm.runtime.checkpoint import Sharded, State
from dist_plm.runtime.optimiser import build_optimiser, learning_rate, set_learning_rate, state_by_name, update
from dist_plm.runtime.strategy import PRECISIONS, DataParallel
from dist_plm.runtime.void_steps import VoidSteps
from dist_plm.runtime.world import World

# Points of an untrained network lie at a mean cosine of about .99, a distance of .14; on a sphere at random, of 1.41.
COLLAPSED_DISTANCE = 0.2
COLLAPSED_RANK = 2.0


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one method, one schedule, a fresh optimiser and a fresh teacher."""

    name: str
    method: str
    epochs: int
    lr: float


def phases(config: Config) -> list[Phase]:
    """The phases of a run, in order."""
    main = Phase(config.train.method, config.train.method, config.train.epochs, config.optimiser.lr)
    if not config.warm_up.epochs:
        return [main]
    return [Phase("warm_up", "instance", config.warm_up.epochs, config.warm_up.lr), main]


@dataclass(frozen=True)
class Report:
    """What a step left behind, still on the device: its loss and the student's embeddings [b, D]."""

    loss: Loss
    z: Tensor


class Learner:
    """The networks of a run on this rank, in the phase that it was last told to enter."""

    def __init__(self, config: Config, world: World, phase: Phase) -> None:
        self.config, self.world = config, world
        self.dtype = PRECISIONS[config.train.precision] if config.train.precision == "fp64" else torch.float32
        student = Encoder(config.model, seed=config.seed, all_reduce_sum=world.sum)
        # Convolutions over channels-last maps: 2.2 x the rate of the forward on a CPU core, tensor cores on a GPU.
        self.student = student.to(world.device, self.dtype).to(memory_format=torch.channels_last)
        self.enter(phase)

    def enter(self, phase: Phase) -> None:
        """Begin a phase: phi_0 = theta_0, the method's own parameters and the optimiser are new."""
        config = self.config
        self.phase = phase
        self.teacher = Teacher(self.student, config.model.momentum)
        self.method = build_method(phase.method, config, self.world).to(device=self.world.device, dtype=self.dtype)
        self.strategy = DataParallel(
            self.student, self.world, precision=config.train.precision, micro_batches=config.batch.micro_batches
        )
        self.void = VoidSteps(self.world.device)
        self.optimiser = build_optimiser(
            self.student.backbone.parameters(),
            self.student.head.parameters(),
            self.method.parameters(),
            config.optimiser,
            own_lr_scale=config.proxies.lr_scale,
        )

    def step(self, views: Tensor, step: int, steps: int) -> Report:
        """One step on this rank's views [b, 3, s, s] of the global batch: step number `step` of the phase's `steps`."""
        self.rate = learning_rate(self.config.optimiser, self.phase.lr, step, steps)
        set_learning_rate(self.optimiser, self.rate)
        self.student.train()

        embedded = self.strategy.embed(views)
        with self.strategy.autocast():
            x = self.teacher(views)
        sound = embedded.detach().isfinite().all() & x.isfinite().all()
        # An eigendecomposition raises on what is not finite; the step is void then and may compute with anything.
        z = embedded.detach().nan_to_num().requires_grad_()
        loss = self.method(Points(z, x.nan_to_num(), self.config.views.count))
        with self.world.waiting("reduce-scatter of dL/dz"):
            loss.share.backward()
        assert z.grad is not None
        with self.world.waiting("all-reduce of gradients"):
            self.strategy.backward(views, embedded, z.grad)

        sound = sound & loss.share.detach().isfinite()
        # The gradients are summed already: what one rank did to them all see, so they accuse nobody.
        finite = _all_finite(self._parameters()) | self.strategy.overflow
        void = self.world.any(~(sound & finite))
        self.void.add(~sound, void, step)
        update(self.optimiser, torch.maximum(void, self.strategy.overflow.to(void)))
        self.teacher.update(self.student)
        return Report(loss, z.detach())

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.student.parameters(), *self.method.parameters()]

    def describe(self, report: Report) -> dict[str, float]:
        """The numbers of a step over the global batch. A collective; waits for the device."""
        loss, size = report.loss, self.world.size
        shares = {"loss": loss.share.detach(), **{f"loss_{name}": value for name, value in loss.terms.items()}}
        means = {name: value / size for name, value in loss.statistics.items()}
        names = [*shares, *means]
        totals = self.world.sum(torch.stack([*shares.values(), *means.values()])).tolist()
        z = self.world.gather_rows(report.z)
        spread = {"mean_pair_distance": mean_pair_distance(z).item(), "effective_rank": effective_rank(z).item()}
        return dict(zip(names, totals, strict=True)) | spread

    def embed_with(self, network: nn.Module) -> Embed:
        """Views [b, 3, s, s] -> embeddings [b, D], in evaluation mode and without gradient."""

        def embed(views: Tensor) -> Tensor:
            network.eval()
            with torch.inference_mode(), self.strategy.autocast():
                return network(views)

        return embed

    def state(self) -> State:
        """All tensors of a run by name, to be saved or to be loaded into."""
        owned = self.method.sharded()
        names: dict[Tensor, str] = {parameter: f"student.{name}" for name, parameter in self.student.named_parameters()}
        names |= {parameter: f"method.{name}" for name, parameter in self.method.named_parameters()}
        state: dict[str, Tensor | Sharded] = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        state |= {f"teacher.{k}": v for k, v in self.teacher.encoder.state_dict().items()}
        state |= {f"method.{name}": value for name, value in owned.items()}
        if self.strategy.loss_scale:
            state |= {f"loss_scale.{name}": value for name, value in self.strategy.loss_scale.state().items()}
        for name, value in state_by_name(self.optimiser, names).items():
            rows = owned.get(name.removeprefix("method.").rpartition(".")[0])
            # Moments have their parameter's shape and are split with it; Adam's step counter is one number.
            state[f"optimiser.{name}"] = Sharded(value, rows.rows) if rows and value.ndim else value
        return state


def batch_norm_warning(learner: Learner) -> str:
    """What to tell a person whose gradients depend on how many ranks there are; empty when they don't."""
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in learner.student.modules())
    if learner.config.model.batch_norm != "per_rank" or learner.world.size == 1 or not layers:
        return ""
    return (
        f"the {layers} batch norm layers take their statistics from each rank's images alone (model.batch_norm "
        "per_rank): gradients are 18-28 % off those of the whole batch, and another number of ranks trains another "
        "network. synchronised and frozen are exact"
    )


def collapse_warning(values: dict[str, float]) -> str:
    """What to tell a person whose embeddings coincide; empty when they don't."""
    distance, rank = values["mean_pair_distance"], values["effective_rank"]
    if distance >= COLLAPSED_DISTANCE and rank >= COLLAPSED_RANK:
        return ""
    return (
        f"the embeddings nearly coincide (mean pair distance {distance:.3f}, effective rank {rank:.1f}). Every "
        "similarity is then about 1, which the method can't leave: start from pretrained weights (model.weights), or "
        "spread the embeddings first (warm_up.epochs)"
    )


def _all_finite(parameters: list[nn.Parameter]) -> Tensor:
    """Whether all gradients are finite, as a scalar bool on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.numel()]
    return torch.stack(torch._foreach_norm(gradients)).isfinite().all()
