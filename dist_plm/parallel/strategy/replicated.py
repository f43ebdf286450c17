"""What strategies share that keep the whole student, its gradients and its moments on every rank."""

from torch import Tensor, nn

from dist_plm.checkpoint.checkpoint import State
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates, begun, state_by_name, update
from dist_plm.parallel.strategy.base import Strategy, sum_of_squares


class Replicated(Strategy):
    """The student whole on each rank, moved everywhere alike by torch's rule. Its state is its own tensors."""

    def __init__(self, student: nn.Module, updates: Updates, world: World, *, precision: str) -> None:
        super().__init__(student, updates, world, precision=precision)
        begun(updates.network)

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]

    def squared_norm(self) -> Tensor:
        return sum_of_squares(self.gradients())

    def move(self, void: Tensor) -> None:
        update(self.updates.network, void)

    def moments(self) -> State:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.student.named_parameters()}
        return state_by_name(self.updates.network, names)

    def put_moments(self, moments: State) -> None:
        """They are the optimiser's own tensors."""

    def weights(self, network: nn.Module) -> State:
        return network.state_dict()

    def put_weights(self, network: nn.Module, weights: State) -> None:
        """They are the network's own tensors."""

    def local(self, network: nn.Module) -> dict[str, Tensor]:
        return {**dict(network.named_parameters()), **dict(network.named_buffers())}

    def whole(self, network: nn.Module) -> nn.Module:
        return network

    def release(self) -> nn.Module:
        return self.student
