"""Finds the sequential blocks at the end of a backbone by tracing a forward pass.

Networks name and nest their blocks in many ways. If the only tensor input of a module is the object that another module
returned, the network can be split between the two.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Unit:
    """A module of the chain.

    Args:
        name: Below the backbone.
        module: Itself.
        extra: Other arguments, the same for any batch: positions of a rotary embedding, an absent mask.
    """

    name: str
    module: nn.Module
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_block(self) -> bool:
        """Whether it is more than a layer: two or more of its children have weights, or one does and it has its own."""
        children = _weighty(self.module)
        if isinstance(self.module, nn.Sequential) or self.name.endswith("downsample") or not children:
            return False
        if len(children) == 1 and isinstance(children[0], nn.Sequential):  # a shortcut around a sequence
            children = _weighty(children[0])
        return len(children) + any(True for _ in self.module.parameters(recurse=False)) > 1


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a module: inputs and output."""

    unit: Unit
    input: Tensor
    output: Tensor


def blocks(backbone: nn.Module, images: Tensor) -> list[list[Unit]]:
    """The last blocks of a backbone, one list each, the last block last.

    A block's list begins with the layers that lie between it and the one before, such as a downsampling, and the last
    one's ends with all that follows it.

    Args:
        backbone: In evaluation mode.
        images: [b, 3, h, w] for the forward pass.

    Returns:
        The sequential blocks up to the end; none if the network is not sequential there.
    """
    calls, end = _watch(backbone, images)
    groups: list[list[Unit]] = [[]]
    for call in _expanded(_chain(calls, end, None), calls):
        if groups[-1] and any(unit.is_block for unit in groups[-1]):
            groups.append([])
        groups[-1].append(call.unit)
    if not any(unit.is_block for unit in groups[-1]) and len(groups) > 1:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [group for group in groups if any(unit.is_block for unit in group)]


@torch.no_grad()
def _watch(backbone: nn.Module, images: Tensor) -> tuple[list[_Call], Tensor]:
    """All calls within a forward pass, inner ones before outer ones, and the input of the neck, else the output."""
    calls: list[_Call] = []
    neck = getattr(backbone, "neck", None)
    outside = {*(neck.modules() if isinstance(neck, nn.Module) else ()), backbone}
    given: list[Tensor] = []

    def seen(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            taken = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            # What is returned as it came was not worked on: an identity, or a dropout without effect.
            if taken and (output is not inputs[0] or getattr(module, "inplace", False)):
                calls.append(_Call(Unit(name, module, named), inputs[0], output))

        return hook

    hooks = [
        module.register_forward_hook(seen(name), with_kwargs=True)
        for name, module in backbone.named_modules()
        if module not in outside
    ]
    if isinstance(neck, nn.Module):
        hooks.append(neck.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])))
    try:
        result = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, given[0] if given else result


def _chain(calls: list[_Call], end: Tensor, begin: Tensor | None) -> list[_Call]:
    """The outermost calls that lead to `end`, in their order: back to `begin`, or as far as they follow each other."""
    backwards: list[_Call] = []
    calls = list(calls)
    while end is not begin:
        # The outermost of the calls that returned this is the last; of one that returns what it was given there may be
        # several, and each is taken once.
        call = next((call for call in reversed(calls) if call.output is end), None)
        if call is None:
            break
        calls = calls[: calls.index(call)]
        backwards.append(call)
        end = call.input
    return backwards[::-1]


def _expanded(chain: list[_Call], calls: list[_Call]) -> list[_Call]:
    """The chain with the members of sequences, and of stages that hold sequences of blocks, in their place."""
    expanded: list[_Call] = []
    for call in chain:
        name = call.unit.name
        within = _chain([other for other in calls if other.unit.name.startswith(f"{name}.")], call.output, call.input)
        weightless = not any(True for inner in expanded for _ in inner.unit.module.parameters())
        if weightless and within and "." not in name:  # the network itself, whose chain may begin within it
            expanded = _expanded(within, calls)
        elif within and within[0].input is call.input and _holds_blocks(call.unit.module):
            expanded += _expanded(within, calls)
        else:
            expanded.append(call)
    return expanded


def _holds_blocks(module: nn.Module) -> bool:
    if type(module) is nn.Sequential:
        return True
    lists = [child for child in module.children() if isinstance(child, nn.Sequential | nn.ModuleList)]
    return any(_all_blocks(child) for child in [module, *lists])


def _all_blocks(module: nn.Module) -> bool:
    weighty = _weighty(module)
    return bool(weighty) and all(Unit("", child).is_block for child in weighty)


def _weighty(module: nn.Module) -> list[nn.Module]:
    """The children that have weights."""
    return [child for child in module.children() if any(True for _ in child.parameters())]
