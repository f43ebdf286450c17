"""The update rule: parameter groups, learning rates as a pure function of the step, state by parameter name."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dist_plm.config import OptimiserConfig


def build_optimiser(
    backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter], own: Iterable[nn.Parameter],
    config: OptimiserConfig, *, own_lr_scale: float,
) -> torch.optim.Optimizer:  # fmt: skip
    """Three groups: the backbone, the head, and the method's own parameters, which have no weight decay.

    The state exists from the start, so that a checkpoint of step 0 has the same tensors as any other.
    """
    groups = [
        {"params": list(backbone), "scale": config.backbone_lr_scale, "weight_decay": config.weight_decay},
        {"params": list(head), "scale": 1.0, "weight_decay": config.weight_decay},
        {"params": list(own), "scale": own_lr_scale, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimiser: torch.optim.Optimizer
    if config.name == "sgd":
        optimiser = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
    else:
        optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](groups, lr=0.0, fused=True)
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()  # at rate 0: creates the state and moves nothing
    for state in optimiser.state.values():
        for value in state.values():
            value.zero_()
    optimiser.zero_grad()
    return optimiser


def update(optimiser: torch.optim.Optimizer, void: Tensor) -> None:
    """One step of the rule, unless `void` (scalar, on the device) is not 0: then weights and moments stay as they are.

    The decision is taken on the device, by the fused rules' `found_inf`: the host need not wait for it.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            # The fused rules walk memory, whatever the strides: a gradient in another layout than its weight, as
            # convolutions over channels-last maps give, would be added to the wrong entries without a word.
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    optimiser.found_inf, optimiser.grad_scale = void, None  # type: ignore[attr-defined]
    optimiser.step()
    optimiser.zero_grad()


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give each group `rate` times its scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(config: OptimiserConfig, base: float, step: int, steps: int) -> float:
    """The rate of `step` (from 0) out of `steps`: a linear rise, then constant or half a cosine down to 0."""
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return base * rise
    return base * rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def state_by_name(optimiser: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's tensors as `parameter name` + `.` + `moment`."""
    return {
        f"{names[parameter]}.{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }
