"""The update rule: parameter groups, learning rates as a pure function of the step, state by parameter name."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_plm.config import OptimiserConfig


@dataclass(frozen=True)
class Updates:
    """What moves the weights of a phase.

    Args:
        network: Of the student. A strategy that lays its weights out anew does so before it has any moments.
        own: Of the method's own parameters, each of which one rank holds; None where there are none.
        clip_norm: Largest norm of all gradients together, over all ranks; 0 leaves them as they are.
    """

    network: torch.optim.Optimizer
    own: torch.optim.Optimizer | None = None
    clip_norm: float = 0.0

    def set_learning_rate(self, rate: float, epoch: int = 0) -> None:
        """Give each group `rate` times its scale; in its resting epochs 0, so that it gathers moments and stays."""
        for optimiser in (self.network, self.own):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = rate * group["scale"] if epoch >= group["resting_epochs"] else 0.0


def build_updates(
    backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter], own: Iterable[nn.Parameter],
    config: OptimiserConfig, *, own_lr_scale: float, layers: Mapping[nn.Parameter, float] | None = None,
) -> Updates:  # fmt: skip
    """Groups of the network, the backbone's and the head, and the method's own parameters without weight decay.

    Args:
        layers: Multiples of the backbone's learning rate, by weight; 1 for those that are not there. A group each.
    """
    decay, resting = config.weight_decay, config.head_only_epochs
    scales: dict[float, list[nn.Parameter]] = {}
    for parameter in backbone:
        if parameter.requires_grad:
            scales.setdefault((layers or {}).get(parameter, 1.0) * config.backbone_lr_scale, []).append(parameter)
    network: list[dict[str, Any]] = [
        {"params": parameters, "scale": scale, "weight_decay": decay, "resting_epochs": resting}
        for scale, parameters in scales.items()
    ]
    heads = [parameter for parameter in head if parameter.requires_grad]
    network += [{"params": heads, "scale": 1.0, "weight_decay": decay, "resting_epochs": 0}]
    owned = {"params": list(own), "scale": own_lr_scale, "weight_decay": 0.0, "resting_epochs": 0}
    return Updates(
        _rule([group for group in network if group["params"]], config.name),
        begun(_rule([owned], config.name)) if owned["params"] else None,
        config.clip_norm,
    )


def _rule(groups: list[dict[str, Any]], name: str) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=0.0, fused=True)


def begun(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same, fused and at rate 0, with the state that others create at their first step: zeros.

    A checkpoint of step 0 then has the same tensors as any other.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    forget(optimiser)
    optimiser.zero_grad()
    return optimiser


def forget(optimiser: torch.optim.Optimizer) -> None:
    """Begin anew: moments and counters 0."""
    for state in optimiser.state.values():
        for value in state.values():
            value.zero_()


def update(optimiser: torch.optim.Optimizer, void: Tensor) -> None:
    """One step of the rule, unless `void` (scalar, on the device) is not 0: then weights and moments stay as they are.

    The decision is taken on the device, by the fused rules' `found_inf`: the host need not wait for it.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            # The fused rules walk memory, whatever the strides: a gradient in another layout than its weight, as
            # convolutions over channels-last maps give, would be added to the wrong entries without a word.
            if parameter.grad is not None and _lies_otherwise(parameter.grad, parameter):
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    leave_out(optimiser, void)
    optimiser.step()
    optimiser.zero_grad()


def _lies_otherwise(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors of one shape have entries in another order. The stride of a dimension of size 1 says
    nothing: the weight of a 1 x 1 convolution is the same in either layout."""
    return any(size > 1 and one != other for size, one, other in zip(a.shape, a.stride(), b.stride(), strict=True))


def leave_out(optimiser: torch.optim.Optimizer, void: Tensor) -> None:
    """Make the next step of a fused rule one that moves nothing, if `void` is not 0."""
    optimiser.found_inf, optimiser.grad_scale = void, None  # type: ignore[attr-defined]


def learning_rate(config: OptimiserConfig, base: float, step: int, steps: int, epoch: int) -> float:
    """The rate of `step` (from 0) out of `steps`, in `epoch`: a linear rise, then what the schedule says."""
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return base * rise
    if config.schedule == "steps":
        return base * rise * config.decay ** sum(epoch >= milestone for milestone in config.milestones)
    return base * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def state_by_name(optimiser: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's tensors as `parameter name` + `.` + `moment`."""
    return {
        f"{names[parameter]}.{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }
