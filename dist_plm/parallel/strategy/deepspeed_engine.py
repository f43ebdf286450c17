"""Adapter to DeepSpeed 0.19: the only module that imports it and uses its private attributes."""

import logging
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dist_plm.config import ZeroConfig
from dist_plm.parallel.optimiser import begun, leave_out

_BUCKET = 50_000_000  # elements per bucket: 200 MB; DeepSpeed's default of 5e8 is more than a ViT-L


def settings(zero: ZeroConfig, precision: str) -> dict[str, Any]:
    """DeepSpeed's configuration; gradient accumulation, clipping and learning rates are handled outside of it."""
    stage: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
        "stage3_prefetch_bucket_size": _BUCKET,
        # Small parameters are partitioned like all others: one rule for the momentum encoder and for checkpoints.
        "stage3_param_persistence_threshold": 0,
    }
    if zero.offload:
        stage["offload_optimizer"] = {"device": "cpu"}
    document: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # the default is 1.0
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if precision == "bf16":
        # Weights and gradients stay fp32, also in communication, as under DDP.
        document["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return document


def _deepspeed(device: torch.device) -> ModuleType:
    """Import the library without its log, for the device of the run."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")  # a single rank without a launcher
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # torch 2.13 renamed functions that it calls.
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)
    # gloo is as fast as its shared-memory kernels, whose compilation takes a minute or two.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class Engine:
    """The student under DeepSpeed: optimizer state, from stage 2 on gradients, and in stage 3 weights are partitioned
    into flat slices, one per rank.

    Args:
        optimiser: Optimizer of the student, without moments; learning rates of its groups are read at each step.
    """

    def __init__(
        self, student: nn.Module, optimiser: torch.optim.Optimizer,
        zero: ZeroConfig, precision: str, device: torch.device,
    ) -> None:  # fmt: skip
        self._stage, self._offload, self._rule = zero.stage, zero.offload, optimiser
        student.to(memory_format=torch.contiguous_format)  # slices are flat, in index order
        deepspeed = _deepspeed(device)
        self._engine, *_ = deepspeed.initialize(model=student, optimizer=optimiser, config=settings(zero, precision))
        self._zero = self._engine.optimizer
        self._begin()

    def __call__(self, views: Tensor) -> Tensor:
        return self._engine(views)

    def backward(self, z: Tensor, gradient: Tensor, last: bool) -> None:
        """Backpropagate dL/dz and average over the ranks; `last`: of the micro-batches of a batch."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward((z * gradient).sum(), scale_wrt_gas=False)

    def gradients(self) -> list[Tensor]:
        """Slices of the averaged gradients that this rank keeps."""
        if self._offload:
            if self._stage < 3 and torch.cuda.is_available():
                torch.cuda.synchronize()  # they are being copied to the host
            return [flat.grad for flat in self._slices if flat.grad is not None]
        return [part for group in self._zero.averaged_gradients.values() for part in group]

    def step(self, skip: Tensor) -> None:
        """Update the student, unless `skip` is not 0. In stages 1 and 2 every rank then receives all weights."""
        leave_out(self._rule, skip.to(self._slices[0].device))
        self._engine.step()

    def moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        """A moment of a parameter, whole and in its shape. A collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, name)

    def put_moment(self, parameter: nn.Parameter, name: str, value: Tensor, rank: int) -> None:
        """Keep this rank's slice of a whole moment."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, name)
        else:
            local = slice_of(parameter)
            assert local is not None
            safe_set_local_optimizer_state(parameter, cut(value, local.numel(), rank), name)

    def counters(self) -> list[tuple[list[nn.Parameter], dict[str, Tensor]]]:
        """For each slice its parameters, on any rank, and the scalars that they share in the optimizer state, such as
        Adam's step counter."""
        groups = self._zero.bit16_groups if self._stage < 3 else self._zero.fp16_groups
        states = [self._rule.state[flat] for flat in self._slices]
        return [
            (list(group), {key: value for key, value in state.items() if value.ndim == 0})
            for group, state in zip(groups, states, strict=True)
        ]

    def moment_names(self) -> list[str]:
        """Names of the moments that have their parameter's shape."""
        return [key for key, value in self._rule.state[self._slices[0]].items() if value.ndim]

    def refresh(self) -> None:
        """Copy the student's weights, set from outside, to the optimizer's copy."""
        self._zero.refresh_fp32_params()

    def close(self) -> None:
        """Remove the hooks of the student."""
        self._engine.destroy()

    @property
    def _slices(self) -> list[Tensor]:
        """The optimizer's parameters: a flat padded slice of each group."""
        zero = self._zero
        return zero.single_partition_of_fp32_groups if self._stage < 3 else zero.fp32_partitioned_groups_flat

    def _begin(self) -> None:
        """Initialise the moments, so that a checkpoint of step 0 has the same tensors as any other."""
        gradients = [flat.grad for flat in self._slices]
        if self._stage == 3:  # where the optimizer sees one slice at a time
            for number, flat in enumerate(self._slices):
                self._rule.param_groups[self._zero.sub_group_to_group_id[number]]["params"].append(flat)
        begun(self._rule)
        if self._stage == 3:
            for group in self._rule.param_groups:
                group["params"] = []
        else:
            self._zero._lazy_init_hp_params_optimizer_state()
        for flat, gradient in zip(self._slices, gradients, strict=True):
            flat.grad = gradient


class Follower:
    """The momentum encoder under stage 3: partitioned like the student, without an optimizer."""

    def __init__(self, network: nn.Module, precision: str, device: torch.device) -> None:
        document = settings(ZeroConfig(stage=3), precision)
        # Cached weights would be outdated after the next step.
        document["zero_optimization"] |= {"stage3_max_reuse_distance": 0}
        network.to(memory_format=torch.contiguous_format)
        self._engine, *_ = _deepspeed(device).initialize(model=network, config=document)

    def close(self) -> None:
        """Remove the hooks of the network."""
        self._engine.destroy()


def slice_of(parameter: nn.Parameter) -> Tensor | None:
    """This rank's flat slice of a parameter under stage 3, padded; None for an unpartitioned parameter."""
    return getattr(parameter, "ds_tensor", None)


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Shape of a parameter, partitioned or not."""
    return getattr(parameter, "ds_shape", parameter.shape)


def cut(whole: Tensor, numel: int, rank: int) -> Tensor:
    """A rank's flat slice of `numel` numbers, zero-padded."""
    part = whole.contiguous().view(-1)[rank * numel : (rank + 1) * numel]
    return torch.cat([part, part.new_zeros(numel - part.numel())])
