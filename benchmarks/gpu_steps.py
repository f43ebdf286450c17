"""Steps of training on a GPU, one check a call; without a GPU the same lines run on the CPU.

    python -m benchmarks.gpu_steps CHECK

trace          operators, kernels and waits of a step; whether host or device bounds it, at 1 and at 8 ranks' share
graphs         a step eager and with runtime.compile; the student's forward and backward as CUDA graphs (an experiment)
reproducible   `runtime.strategy: reproducible` twice: the same bits
settings       precisions, micro-batches, synchronised batch norm, ZeRO 1 to 3: the loss of a step against fp32, memory
saves          threads, descriptors and memory over many checkpoints
vit            a ViT-S/16 of timm in bf16 beside fp32
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu_common import FAILED, NOT_CHECKED, OK, Place, main, milliseconds, outcome
from dist_plm.config import BatchConfig, CheckpointConfig, Config, ModelConfig, RuntimeConfig, TrainConfig, ViewsConfig
from dist_plm.config.training import ZeroConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.connection import connect, disconnect
from dist_plm.distributed.device import set_arithmetic
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.parallel.compiled import check_compiler, compiled
from dist_plm.training.learner import Learner, phases
from dist_plm.training.operators import operators_of_step

Lines = list[tuple[int, str]]
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
STEP = "benchmarks.gpu_steps: one step"
RANKS = 8  # whose share of 100 images is measured beside all of them


def settings_of(place: Place, images: int = 100, *, backbone: str = "") -> Config:
    """The paper's step: 100 images x 2 views of 227 pixels, GoogLeNet; small where asked for."""
    groups = BatchConfig(groups=images // 2 if images < 20 else 10, group_size=2 if images < 20 else images // 10)
    if place.small:
        model = ModelConfig(backbone=backbone or "small", dim=16)
        return Config(model=model, batch=groups, views=ViewsConfig(size=32, resize=36))
    model = ModelConfig(backbone=backbone or "bvlc_googlenet", dim=128)
    return Config(model=model, batch=groups, views=ViewsConfig(size=227, resize=256))


def batch_of(config: Config, device: torch.device, seed: int = 0) -> Batch:
    random, size = torch.Generator().manual_seed(seed), config.views.size
    views = torch.randint(0, 256, (2 * config.batch.images, 3, size, size), dtype=torch.uint8, generator=random)
    return Batch(seed, torch.arange(config.batch.images), views.to(device))


def learner_of(config: Config, world: World) -> Learner:
    return Learner(config, world, phases(replace(config, warm_up=replace(config.warm_up, epochs=0)))[0])


def trace(place: Place) -> Lines:
    """A step of 100 images, and of the 12 that one of 8 ranks has of them."""
    return [_traced(place, images) for images in (100, 100 // RANKS)]


def _traced(place: Place, images: int) -> tuple[int, str]:
    config, world = settings_of(place, images), World(device=place.device)
    learner, batch = learner_of(config, world), batch_of(config, place.device)
    time = milliseconds(lambda: learner.step(batch, 0, 100), place.device, 5)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if place.on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as watched:
        with record_function(STEP):
            learner.step(batch, 0, 100)
        if place.on_gpu:
            torch.cuda.synchronize()
    seen = Seen.of(watched.events())
    told = f"{images} images: {time:.1f} ms a step, {seen.operators:,} calls of operators"
    if not place.on_gpu:
        return NOT_CHECKED, f"{told}; kernels and waits need a GPU"
    bound = "the host" if seen.busy < 0.8 * time else "the device"
    told += f", {seen.kernels:,} kernels and copies, {seen.busy:.1f} ms of the device, {seen.waits} waits; bound by "
    return outcome(seen.waits == 0), told + bound


@dataclass(frozen=True)
class Seen:
    """What the profiler saw of a step.

    Attributes:
        operators: Calls of operators of torch, those that operators call included.
        kernels: Kernels and copies on the GPU.
        busy: Milliseconds of those, the two streams added.
        waits: Calls with which the host waits for the GPU.
    """

    operators: int
    kernels: int
    busy: float
    waits: int

    @classmethod
    def of(cls, events: Iterable[Any]) -> "Seen":
        """Of the events of a profile with one region STEP.

        A region (`record_function`) also appears as an event of the GPU that spans its kernels, and the profiler waits
        for the GPU at its own end: neither counts.
        """
        events = list(events)
        on_gpu = [event.device_type == torch.autograd.DeviceType.CUDA for event in events]
        host = [event for event, there in zip(events, on_gpu, strict=True) if not there]
        kernels = [e for e, there in zip(events, on_gpu, strict=True) if there and not e.is_user_annotation]
        (whole,) = (event.time_range for event in host if event.name == STEP)
        waits = [e for e in host if e.name in WAITS and whole.start <= e.time_range.start <= whole.end]
        operators = sum(event.name.startswith("aten::") for event in host)
        return cls(operators, len(kernels), sum(event.device_time for event in kernels) / 1e3, len(waits))


def graphs(place: Place) -> Lines:
    """In bf16, at 100 images and at the share of one of RANKS ranks, where the host bounds a step if anywhere.

    CUDA graphs are torch.compile's (mode reduce-overhead), of the student's forward and backward alone: what a step
    would take with them is estimated by what that region saves."""
    try:
        check_compiler()
    except UserError as error:
        return [(NOT_CHECKED, str(error))]
    return [_with_graphs(place, images) for images in ((100 // RANKS,) if place.small else (100, 100 // RANKS))]


def _with_graphs(place: Place, images: int) -> tuple[int, str]:
    config = replace(settings_of(place, images), train=TrainConfig(precision="bf16"))
    world, batch = World(device=place.device), batch_of(config, place.device)
    times = {}
    # The small trial compiles nothing: C++ kernels take a busy CPU minutes.
    for name, compile in (("eager", False), ("runtime.compile", True))[: 1 if place.small else 2]:
        learner = learner_of(replace(config, runtime=RuntimeConfig(compile=compile)), world)
        times[name] = milliseconds(lambda: learner.step(batch, 0, 100), place.device, 5)  # noqa: B023
    learner = learner_of(config, world)
    network: nn.Module = learner.student
    forms: dict[str, Callable[..., Any]] = {"eager": network}
    if place.small:
        forms["traced"] = torch.compile(network, backend="eager")
    else:
        forms["compiled"] = compiled(network)
        forms["CUDA graphs"] = torch.compile(network, mode="reduce-overhead", dynamic=False)
    regions = {name: milliseconds(_region(learner, form, batch), place.device, 5) for name, form in forms.items()}
    host = 1e3 * times["eager"] / operators_of_step(config)
    steps, parts = (", ".join(f"{name} {time:.1f} ms" for name, time in each.items()) for each in (times, regions))
    told = f"{images} images: a step {steps}; {host:.0f} us an operator; the student's forward and backward {parts}"
    if place.small or not place.on_gpu:
        return NOT_CHECKED, f"{told}; CUDA graphs need a GPU and full sizes"
    whole = times["eager"] - regions["eager"] + regions["CUDA graphs"]
    return OK, f"{told}; a step with CUDA graphs of that region about {whole:.1f} ms"


def _region(learner: Learner, network: Callable[..., Any], batch: Batch) -> Callable[[], None]:
    """Forward and backward of the student, from the same gradient of the embeddings each time."""

    def act() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        learner.student.train()
        with learner.strategy.autocast():
            z = network(batch.views)
        z.backward(torch.ones_like(z))
        learner.student.zero_grad()

    return act


def reproducible(place: Place) -> Lines:
    """Three steps twice from the same seeds."""
    runtime = RuntimeConfig(strategy="reproducible")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_arithmetic(precision="fp32", reproducible=True, device=place.device)
    config = replace(settings_of(place, 20), runtime=runtime)
    ends = []
    for _ in range(2):
        learner = learner_of(config, World(device=place.device))
        for step in range(3):
            learner.step(batch_of(config, place.device, step), step, 3)
        ends.append({name: value.detach().cpu() for name, value in learner.student.state_dict().items()})
    off = [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])]
    return [(outcome(not off), f"reproducible, 3 steps twice: {len(off)} of {len(ends[0])} tensors differ")]


ZERO: tuple[ZeroConfig, ...] = (ZeroConfig(1), ZeroConfig(2), ZeroConfig(3), ZeroConfig(2, offload=True))
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "tf32": {"train": TrainConfig(precision="tf32")},
    "bf16": {"train": TrainConfig(precision="bf16")},
    "fp16": {"train": TrainConfig(precision="fp16")},
    "4 micro-batches": {"batch": 4},
    "synchronised batch norm": {"model": {"backbone": "resnet50", "batch_norm": "synchronised"}},
    **{
        f"ZeRO {zero.stage}{' with offload' * zero.offload}": {
            "runtime": RuntimeConfig(strategy="deepspeed", zero=zero)
        }
        for zero in ZERO
    },
}
BOUNDS = {"fp32": 0.0, "4 micro-batches": 1e-3, "tf32": 2e-2, "bf16": 5e-2, "fp16": 5e-2}
BOUND = 1e-2  # of the others


def settings(place: Place) -> Lines:
    """The loss of the third step against that in fp32: another arithmetic differs by its rounding alone."""
    lines: Lines = []
    expected = 0.0
    world = connect(RuntimeConfig())
    for name in SETTINGS:
        try:
            loss, memory = _third_loss(place, name, world)
        except (UserError, ImportError) as error:
            lines.append((NOT_CHECKED, f"{name}: {error}"))
            continue
        except Exception as error:
            lines.append((FAILED, f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:160]}"))
            continue
        expected = expected or loss
        off = abs(loss - expected) / expected
        bound = BOUNDS.get(name, BOUND)
        other = name == "synchronised batch norm"  # a network that has it: its loss has nothing to be compared with
        told = "of another network" if other else f"off by {off:.1e} (bound {bound:g})"
        alike = loss == loss and (off <= bound or other)
        lines.append((outcome(alike), f"{name}: loss {loss:.5f}, {told}{memory}"))
    disconnect(world)
    return lines


def _third_loss(place: Place, name: str, world: World) -> tuple[float, str]:
    changes = SETTINGS[name]
    config = settings_of(place, 20)
    if "batch" in changes:
        config = replace(config, batch=replace(config.batch, micro_batches=changes["batch"]))
    elif "model" in changes:
        config = replace(config, model=replace(config.model, **changes["model"]))
        config = replace(config, views=ViewsConfig(size=64, resize=72))
    else:
        config = replace(config, **changes)
    set_arithmetic(precision=config.train.precision, reproducible=False, device=place.device)
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    learner = learner_of(config, world)
    loss = [learner.step(batch_of(config, place.device, step), step, 3).loss.share.item() for step in range(3)][-1]
    learner.strategy.release()
    return loss, f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if place.on_gpu else ""


def saves(place: Place) -> Lines:
    """Checkpoints one after the other: no thread, descriptor or device memory may be left by each."""
    from dist_plm.checkpoint.saver import Saver
    from dist_plm.telemetry.progress import Display

    count, config = 20 if place.small else 60, settings_of(place, 20)
    world = connect(RuntimeConfig())
    learner, counts = learner_of(config, world), []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), world, Display(world), CheckpointConfig())
        for number in range(count):
            saver.save(number, learner.state(), {})
            saver.finish()
            reserved = torch.cuda.memory_reserved() >> 20 if place.on_gpu else 0
            counts.append((threading.active_count(), len(os.listdir("/proc/self/task")),
                           len(os.listdir("/proc/self/fd")), reserved))  # fmt: skip
    disconnect(world)
    # A thread may come late or go late; a leak grows from the first third to the last in all of its counts.
    third = count // 3
    first, last = ([*map(f, zip(*some, strict=True))] for f, some in ((max, counts[:third]), (min, counts[-third:])))
    told = "Python threads {}, threads {}, descriptors {}, MiB reserved {}"
    line = f"{count} checkpoints, first third: at most {told.format(*first)}; last third: at least {told.format(*last)}"
    return [(outcome(all(b <= a for a, b in zip(first, last, strict=True))), line)]


def vit(place: Place) -> Lines:
    """Milliseconds of a step of 20 images x 2 views of 224 pixels (small: 32)."""
    size = 32 if place.small else 224
    base = settings_of(replace(place, small=False), 20, backbone="timm/vit_small_patch16_224")
    if place.small:
        base = replace(base, model=replace(base.model, backbone="timm/test_vit"))
        size = 160
    base = replace(base, views=ViewsConfig(size=size, resize=size + size // 8))
    times = {}
    for precision in ("fp32", "bf16"):
        config = replace(base, train=TrainConfig(precision=precision))
        learner = learner_of(config, World(device=place.device))
        batch = batch_of(config, place.device)
        loss = learner.step(batch, 0, 100).loss.share.item()
        if loss != loss:
            return [(FAILED, f"ViT in {precision}: the loss is not a number")]
        times[precision] = milliseconds(lambda: learner.step(batch, 0, 100), place.device, 3)  # noqa: B023
    return [(OK, f"{base.model.backbone}: " + ", ".join(f"{name} {time:.1f} ms" for name, time in times.items()))]


CHECKS = {each.__name__: each for each in (trace, graphs, reproducible, settings, saves, vit)}

if __name__ == "__main__":
    main(CHECKS, __doc__)
