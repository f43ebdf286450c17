"""P12: arithmetic throughput of a step, relative to that of its convolutions in isolation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dist_plm.bench.ratios import Ratio, in_turns
from dist_plm.bench.setting import Setting

GIGA = 1e9


@dataclass(frozen=True)
class Convolution:
    """A convolution of the student with operands of the shapes, type and memory layout of a step, but random.

    Args:
        layer: Whose stride, padding and groups it has.
        maps: Input [b, C, h, w].
        weight: [C', C / groups, k, k], likewise.
        bias: [C'], or None.
        differentiates: Whether the step needs the gradient of the input; the first layer's is not computed.
    """

    layer: nn.Conv2d
    maps: Tensor
    weight: Tensor
    bias: Tensor | None
    differentiates: bool

    def forward(self) -> Tensor:
        """[b, C', h', w']."""
        layer = self.layer
        padding, dilation = layer.padding, layer.dilation
        return conv2d(self.maps, self.weight, self.bias, layer.stride, padding, dilation, layer.groups)

    def step(self) -> None:
        """As in a step: with backward for the student, forward alone for the momentum encoder."""
        out = self.forward()
        inputs = [self.maps, self.weight] if self.differentiates else [self.weight]
        torch.autograd.grad(out, inputs, torch.ones_like(out))
        with torch.no_grad():
            self.forward()

    def operations(self) -> int:
        """Floating-point operations of `step`, a multiplication and an addition counted as two."""
        with torch.no_grad():
            outputs = self.forward().numel()
        once = 2 * outputs * self.weight[0].numel()
        return once * (4 if self.differentiates else 3)


def arithmetic(setting: Setting) -> list[Ratio]:
    """P12 on a synthetic batch: GFLOP/s of a whole step over those of its convolutions, one after the other."""
    batch = setting.batch(setting.config.batch.images // setting.world.size)
    learner = setting.learner()
    convolutions = _convolutions(learner.student, lambda: learner.step(batch, 0, 10**6))
    if not convolutions:
        return [Ratio("P12", note=f"{setting.config.model.backbone} has no convolutions")]
    operations = sum(convolution.operations() for convolution in convolutions) / GIGA

    def alone() -> None:
        for convolution in convolutions:
            convolution.step()

    alone()
    over, under = in_turns(
        setting.repeats,
        lambda: operations / setting.seconds(lambda: learner.step(batch, 0, 10**6)),
        lambda: operations / setting.seconds(alone),
    )
    note = f"{len(convolutions)} convolutions, {operations:,.0f} GFLOP a step in {setting.config.train.precision}"
    return [Ratio("P12", over, under, note, applies=not setting.on_gpu)]


def _convolutions(network: nn.Module, step: Callable[[], object]) -> list[Convolution]:
    """The convolutions that `step` calls in `network`, in their order."""
    convolutions: list[Convolution] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        maps = torch.randn_like(inputs[0].detach(), dtype=out.dtype)  # autocast changes the type within the layer
        weight = layer.weight.detach().to(out.dtype)
        bias = None if layer.bias is None else layer.bias.detach().to(out.dtype)
        first = not inputs[0].requires_grad
        maps.requires_grad_(not first)
        convolutions.append(Convolution(layer, maps, weight.requires_grad_(), bias, not first))

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    step()
    for hook in hooks:
        hook.remove()
    return convolutions
