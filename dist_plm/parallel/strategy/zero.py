"""ZeRO (Rajbhandari et al., SC 2020): state that DDP replicates is sharded over the ranks, in three stages."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dist_plm.checkpoint.checkpoint import Sharded, State
from dist_plm.config import ZeroConfig
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.base import Strategy, sum_of_squares
from dist_plm.parallel.strategy.deepspeed_engine import Engine, Follower, cut, shape_of, slice_of
from dist_plm.parallel.strategy.micro_batches import MicroBatches


class Zero(Strategy):
    """The student by DeepSpeed: stage 1 shards the optimizer state, 2 also gradients, 3 also weights.

    Results are those of DDP: gradients are averaged in float32 and clipped by the norm over all slices and all owned
    parameters, each group has its own rate, and a skipped step changes nothing.

    The momentum encoder is replicated in stages 1 and 2. In stage 3 it is sharded like the student, so that equation 1
    needs no communication; for embedding passes and evaluations, each rank gathers a full copy of the network, 4 bytes
    per weight, since ranks embed different numbers of batches.

    A checkpoint has the tensors of DDP, sharded by rows: each parameter is gathered and every rank keeps its rows in
    host memory. This costs an all-gather of the sharded tensors (in stage 3 16 bytes per weight with Adam), and on each
    rank 1 / W of them in host memory and one full parameter on the device.

    Args:
        student: Complete on all ranks, so it must fit into memory once.
        teacher: The momentum encoder, likewise.
        micro_batches: Micro-batches of a rank's share; from stage 2 on each is reduced.
    """

    overlaps = False  # DeepSpeed gathers weights on its own stream, in the order in which modules run

    def __init__(
        self, student: nn.Module, teacher: nn.Module, updates: Updates, world: World, zero: ZeroConfig,
        *, precision: str, micro_batches: int,
    ) -> None:  # fmt: skip
        super().__init__(student, updates, world, precision=precision)
        self._micro_batches = MicroBatches(micro_batches, world.device)
        self._blank = {network: copy.deepcopy(network).to("meta") for network in (student, teacher)}
        self._engine = Engine(student, updates.network, zero, precision, world.device)
        self._follower = Follower(teacher, precision, world.device) if zero.stage == 3 else None

    def embed(self, views: Tensor) -> Tensor:
        views = _channels_last(views)  # the same convolution kernels as DDP
        with self.world.waiting("all-gather of weights"):
            if self._micro_batches.count == 1:
                return self._engine(views)
            with self.autocast():
                return self._micro_batches.embed(self.student, views)

    def embed_constant(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        with self.world.waiting("all-gather of weights"):
            return super().embed_constant(network, _channels_last(views))

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        """See `Strategy.backward`. DeepSpeed averages over the ranks like DDP: hence the factor W."""
        gradient = gradient * self.world.size
        views = _channels_last(views)
        if self._micro_batches.count == 1:
            self._engine.backward(z, gradient, last=True)
            return
        for piece, piece_gradient, last in self._micro_batches.again(views, gradient):
            self._engine.backward(self._engine(piece), piece_gradient, last)

    def gradients(self) -> list[Tensor]:
        return self._engine.gradients()

    def squared_norm(self) -> Tensor:
        return self.world.sum(sum_of_squares(self.gradients()).to(self.world.device))

    def move(self, skip: Tensor) -> None:
        self._engine.step(skip)

    def weights(self, network: nn.Module) -> State:
        return self._by_rows(network) if self._follower else network.state_dict()

    def _by_rows(self, network: nn.Module) -> State:
        parameters = dict(network.named_parameters())
        return {
            name: self._rows(self._gathered(parameters[name])) if name in parameters else value
            for name, value in network.state_dict().items()
        }

    @torch.no_grad()
    def put_weights(self, network: nn.Module, weights: State) -> None:
        for name, parameter in network.named_parameters():
            local = slice_of(parameter)
            if local is not None:
                local.copy_(cut(self._joined(weights[name]), local.numel(), self.world.rank))
        if network is self.student:
            self._engine.refresh()

    def moments(self) -> State:
        names = {parameter: name for name, parameter in self.student.named_parameters()}
        state: dict[str, Tensor | Sharded] = {}
        for parameters, counters in self._engine.counters():
            for parameter in parameters:
                state |= {f"{names[parameter]}.{key}": value.clone() for key, value in counters.items()}
                for moment in self._engine.moment_names():
                    with self.world.waiting("all-gather of moments"):
                        whole = self._engine.moment(parameter, moment)
                    state[f"{names[parameter]}.{moment}"] = self._rows(whole)
        return state

    def put_moments(self, moments: State) -> None:
        names = {parameter: name for name, parameter in self.student.named_parameters()}
        for parameters, counters in self._engine.counters():
            for key, value in counters.items():  # all parameters of a group have taken the same steps
                value.copy_(self._joined(moments[f"{names[parameters[0]]}.{key}"]))
            for parameter in parameters:
                for moment in self._engine.moment_names():
                    value = self._joined(moments[f"{names[parameter]}.{moment}"])
                    self._engine.put_moment(parameter, moment, value, self.world.rank)

    def local(self, network: nn.Module) -> dict[str, Tensor]:
        slices = {name: slice_of(parameter) for name, parameter in network.named_parameters()}
        return {
            **dict(network.named_parameters()),
            **dict(network.named_buffers()),
            **{name: local for name, local in slices.items() if local is not None},
        }

    def whole(self, network: nn.Module) -> nn.Module:
        return self._copy(network) if self._follower else network

    def release(self) -> nn.Module:
        student = self._copy(self.student)
        self._engine.close()
        if self._follower:
            self._follower.close()
        return student

    @torch.no_grad()
    def _copy(self, network: nn.Module) -> nn.Module:
        """An independent copy of a network with its full current weights. A collective."""
        twin = copy.deepcopy(self._blank[network]).to_empty(device=self.world.device)
        theirs = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        for name, mine in [*twin.named_parameters(), *twin.named_buffers()]:
            value = theirs[name]
            mine.copy_(self._gathered(value) if isinstance(value, nn.Parameter) else value)
        return twin.train(network.training)

    @torch.no_grad()
    def _gathered(self, parameter: nn.Parameter) -> Tensor:
        local, shape = slice_of(parameter), shape_of(parameter)
        return parameter if local is None else self.world.gather_rows(local)[: shape.numel()].view(shape)

    def _rows(self, whole: Tensor) -> "Tensor | Sharded":
        """This rank's rows, in host memory; a tensor with fewer rows than ranks is kept complete."""
        chunks = whole.detach().chunk(self.world.size) if whole.ndim else ()
        if len(chunks) < self.world.size:
            return whole.detach().cpu()
        return Sharded(chunks[self.world.rank].to("cpu", copy=True), len(whole))

    def _joined(self, value: "Tensor | Sharded") -> Tensor:
        """The complete tensor of the parts by `_rows`, on the device. A collective."""
        if not isinstance(value, Sharded):
            return value.to(self.world.device)
        local, rows = value.local, -(-value.rows // self.world.size)
        padded = torch.cat([local, local.new_zeros(rows - len(local), *local.shape[1:])])
        return self.world.gather_rows(padded.to(self.world.device))[: value.rows]


def _channels_last(views: Tensor) -> Tensor:
    """Channels-last layout of images or maps; tokens and vectors unchanged."""
    return views.contiguous(memory_format=torch.channels_last) if views.ndim == 4 else views
