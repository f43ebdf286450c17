"""Optimizers: parameter groups, learning rate as a pure function of the step, state by parameter name."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_plm.config import OptimiserConfig


@dataclass(frozen=True)
class Updates:
    """The optimizers of a phase.

    Args:
        network: Optimizer of the student. A strategy that repartitions weights does so before there are moments.
        method: Optimizer of the method's parameters, each owned by one rank; None if there are none.
        clip_norm: Largest norm of all gradients over all ranks; 0: no clipping.
    """

    network: torch.optim.Optimizer
    method: torch.optim.Optimizer | None = None
    clip_norm: float = 0.0

    def set_learning_rate(self, rate: float, epoch: int = 0) -> None:
        """Set the rate of each group, `rate` times its scale; 0 while frozen, so that moments accumulate."""
        for optimiser in (self.network, self.method):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = rate * group["scale"] if epoch >= group["resting_epochs"] else 0.0


def build_updates(
    backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter], method_parameters: Iterable[nn.Parameter],
    config: OptimiserConfig, *, method_lr_scale: float, layers: Mapping[nn.Parameter, float] | None = None,
) -> Updates:  # fmt: skip
    """Parameter groups of backbone, head, and the method's parameters, the last without weight decay.

    Args:
        layers: Multiples of the backbone's learning rate, by weight; 1 by default. One group each.
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
    owned = {"params": list(method_parameters), "scale": method_lr_scale, "weight_decay": 0.0, "resting_epochs": 0}
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
    """The optimizer, fused, at rate 0, with its state initialised to zeros in advance.

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
    """Reset moments and counters to 0."""
    for state in optimiser.state.values():
        for value in state.values():
            value.zero_()


def update(optimiser: torch.optim.Optimizer, skip: Tensor) -> None:
    """One optimizer step; skipped, with unchanged weights and moments, if `skip` (scalar, on the device) is not 0.

    Decided on the device by the `found_inf` of fused optimizers, without synchronisation.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            # Fused optimizers ignore strides: a gradient in another layout than its weight, as from convolutions over
            # channels-last maps, would silently be applied to the wrong entries.
            if parameter.grad is not None and _lies_otherwise(parameter.grad, parameter):
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    leave_out(optimiser, skip)
    optimiser.step()
    optimiser.zero_grad()


def _lies_otherwise(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors of one shape differ in memory layout. Strides of dimensions of size 1 are ignored: the
    weight of a 1 x 1 convolution is the same in either layout."""
    return any(size > 1 and one != other for size, one, other in zip(a.shape, a.stride(), b.stride(), strict=True))


def leave_out(optimiser: torch.optim.Optimizer, skip: Tensor) -> None:
    """Make a fused optimizer skip its next step if `skip` is not 0."""
    optimiser.found_inf, optimiser.grad_scale = skip, None  # type: ignore[attr-defined]


def learning_rate(config: OptimiserConfig, base: float, step: int, steps: int, epoch: int) -> float:
    """The rate of `step` (from 0) out of `steps`, in `epoch`: linear warm-up, then the schedule."""
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
