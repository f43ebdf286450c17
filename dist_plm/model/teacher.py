"""The momentum encoder f_phi (section 3.1.2): an exponential moving average of the student."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """phi_0 = theta_0; phi_t = gamma phi_{t-1} + (1 - gamma) theta_t (equation 1).

    Always in evaluation mode and without gradients. Float buffers (statistics) move like weights; counters are copied.

    Args:
        student: The encoder, without a data-parallel wrapper.
        momentum: EMA momentum (gamma), in [0, 1].
        share: Share the student's frozen weights instead of copying them.
    """

    def __init__(self, student: nn.Module, momentum: float, *, share: bool = True) -> None:
        super().__init__()
        self.momentum = momentum
        frozen = [parameter for parameter in student.parameters() if share and not parameter.requires_grad]
        self.encoder = copy.deepcopy(student, {id(parameter): parameter for parameter in frozen})
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [b, 3, h, w] -> embeddings [b, D] on the unit sphere."""
        return self.encoder(images)

    @torch.no_grad()
    def update(self, student: nn.Module, local: "Callable[[nn.Module], dict[str, Tensor]] | None" = None) -> None:
        """EMA update (equation 1), after the optimizer step.

        Args:
            student: The network that this one was copied from.
            local: Returns weights and buffers of a network by name, or this rank's shards; all by default.
        """
        local = local or _tensors
        mine, theirs = local(self.encoder), local(student)
        assert mine.keys() == theirs.keys(), "the student is not the network that the teacher was copied from"
        separate = [name for name, tensor in mine.items() if tensor is not theirs[name]]
        moving = [name for name in separate if mine[name].is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in moving], [theirs[n] for n in moving], 1 - self.momentum)
        for name in set(separate) - set(moving):
            mine[name].copy_(theirs[name])


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
