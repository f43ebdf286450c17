"""Treatment of batch normalisation: frozen, synchronised over all ranks, or per rank.

With per-rank statistics embeddings depend on the assignment of images to ranks: gradients differ by 18-28 %.
"""

from collections.abc import Callable, Hashable
from functools import cache, reduce
from typing import Literal

import torch
from torch import Tensor, nn

from dist_plm.errors import UserError

AllReduceSum = Callable[[Tensor], Tensor]


class _Frozen(nn.modules.batchnorm._BatchNorm):
    """Always normalises by the running statistics, which never change; its scale and shift are trained."""

    def train(self, mode: bool = True) -> "_Frozen":
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenBatchNorm(_Frozen, nn.BatchNorm2d):
    """Of maps [b, C, h, w]."""


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the rows of all ranks, on CPU and GPU alike (torch's SyncBatchNorm refuses CPU).

    Args:
        channels: Of the map.
        eps: Added to the variance.
        momentum: Of the running statistics.
        all_reduce_sum: Sum of a tensor over the ranks whose backward is again the sum over the ranks. Only training
            calls it, as a collective: all ranks must run the same layers in the same order.
        affine: Whether it has a scale and a shift.
    """

    all_reduce_sum: AllReduceSum | None

    def __init__(
        self,
        channels: int,
        eps: float,
        momentum: float | None,
        all_reduce_sum: AllReduceSum | None,
        *,
        affine: bool = True,
    ) -> None:
        super().__init__(channels, eps, momentum, affine)
        self.all_reduce_sum = _closure(all_reduce_sum)

    def forward(self, input: Tensor) -> Tensor:
        """[b, C] or [b, C, h, w] -> the same shape; b may differ from rank to rank."""
        if not self.training:
            return super().forward(input)
        assert self.all_reduce_sum is not None, "synchronised batch norm trains only with a sum over the ranks"
        assert self.running_mean is not None
        maps = input.to(self.running_mean.dtype)
        over, per_channel = (0, *range(2, maps.ndim)), (-1, *(1,) * (maps.ndim - 2))
        # Two passes, mean first: E[x^2] - E[x]^2 in one would cancel where the mean is large beside the deviation.
        count = maps.new_full((1,), maps.numel() / maps.shape[1])
        total = self.all_reduce_sum(torch.cat([maps.sum(over), count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = maps - mean.view(per_channel)
        variance = self.all_reduce_sum(centred.square().sum(over)) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return self._after((centred * scale.view(per_channel)).to(input.dtype))
        scale = self.weight * scale
        return self._after((centred * scale.view(per_channel) + self.bias.view(per_channel)).to(input.dtype))

    def _after(self, maps: Tensor) -> Tensor:
        """The activation at the end of timm's batch-norm layers."""
        after = [getattr(self, name) for name in ("drop", "act") if hasattr(self, name)]
        return reduce(lambda features, layer: layer(features), after, maps)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        self.num_batches_tracked += 1


class SynchronisedBatchNorm(_Synchronised, nn.BatchNorm2d):
    """Of maps [b, C, h, w]."""


class SynchronisedRowNorm(_Synchronised, nn.BatchNorm1d):
    """Of rows [b, C]."""


def convert_batch_norm(
    network: nn.Module,
    treatment: Literal["frozen", "synchronised", "per_rank"],
    all_reduce_sum: AllReduceSum | None = None,
) -> nn.Module:
    """Replaces every batch norm layer of a network in place, with its weights and statistics.

    Args:
        network: Changed in place.
        treatment: As `ModelConfig.batch_norm`.
        all_reduce_sum: Needed to train with `synchronised`; see SynchronisedBatchNorm.

    Returns:
        The network; another object only where the network is itself a batch norm layer.

    Raises:
        UserError: A layer has no running statistics, or averages them in a way that is not supported.
    """
    if treatment == "per_rank":
        return network
    if isinstance(network, nn.modules.batchnorm._BatchNorm):
        _check_statistics(network, treatment)
    if type(network) is nn.BatchNorm2d:
        return _converted(network, treatment, all_reduce_sum)
    if isinstance(network, nn.modules.batchnorm._BatchNorm) and not isinstance(network, _Frozen | _Synchronised):
        return _retyped(network, treatment, all_reduce_sum)
    for name, child in network.named_children():
        setattr(network, name, convert_batch_norm(child, treatment, all_reduce_sum))
    return network


def _check_statistics(layer: nn.modules.batchnorm._BatchNorm, treatment: str) -> None:
    told = f"model.batch_norm {treatment}: a {type(layer).__name__} of {layer.num_features} channels has"
    if layer.running_mean is None:
        raise UserError(f"{told} no running statistics (track_running_stats=False): set --model.batch_norm per_rank")
    if layer.momentum is None and treatment == "synchronised":
        raise UserError(f"{told} momentum=None, which is not supported: set its momentum, or --model.batch_norm frozen")


def _converted(layer: nn.BatchNorm2d, treatment: str, all_reduce_sum: AllReduceSum | None) -> nn.BatchNorm2d:
    new: nn.BatchNorm2d
    if treatment == "frozen":
        new = FrozenBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine)
    else:
        new = SynchronisedBatchNorm(layer.num_features, layer.eps, layer.momentum, all_reduce_sum, affine=layer.affine)
    assert layer.running_mean is not None
    # Precision first: loading rounds to that of the new layer.
    new.to(layer.running_mean).load_state_dict(layer.state_dict())
    new.train(layer.training)
    return new


def _retyped(
    layer: nn.modules.batchnorm._BatchNorm, treatment: str, all_reduce_sum: AllReduceSum | None
) -> nn.modules.batchnorm._BatchNorm:
    """Change the class of a one-dimensional or timm layer in place, which keeps its other attributes and methods."""
    layer.__class__ = _with(_Frozen if treatment == "frozen" else _Synchronised, type(layer))  # type: ignore[arg-type]
    if treatment != "frozen":
        layer.all_reduce_sum = _closure(all_reduce_sum)  # type: ignore[assignment]
    layer.train(layer.training)
    return layer


@cache
def _with(treatment: Hashable, kind: Hashable) -> type:
    assert isinstance(treatment, type) and isinstance(kind, type)
    return type(f"{treatment.__name__.strip('_')}{kind.__name__}", (treatment, kind), {})


def _closure(all_reduce_sum: AllReduceSum | None) -> AllReduceSum | None:
    # Copying a network copies the object behind a bound method, and a process group has no copy.
    return None if all_reduce_sum is None else lambda tensor: all_reduce_sum(tensor)
