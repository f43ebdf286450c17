"""Checks before anything starts: rules across keys, missing data, impossible world size."""

from importlib.util import find_spec

from dist_plm.checks.values import check_values
from dist_plm.config import Config
from dist_plm.data.opening import manifest_of, open_split
from dist_plm.data.place import is_url
from dist_plm.errors import UserError
from dist_plm.index.placement import place_run
from dist_plm.methods import check_method, is_searched


def check(config: Config, world_size: int) -> None:
    """Raise a UserError that names the wrong keys and the fix."""
    check_settings(config, world_size)
    _check_data(config, world_size)
    from dist_plm.model.adapters import check_adapters
    from dist_plm.model.backbones import check_model
    from dist_plm.model.split import blocks_wanted

    check_model(config.model)
    blocks_wanted(config.model.trainable)
    check_adapters(config.model)
    check_method(config, world_size)


def check_settings(config: Config, world_size: int) -> None:
    """The part of `check` that needs no data."""
    check_values(config)
    _check_sizes(config)
    _check_batch(config, world_size)


def _check_sizes(config: Config) -> None:
    low, high = config.views.scale
    if not 0 < low <= high <= 1:
        raise UserError(f"views.scale is [{low}, {high}]: it must be 0 < smallest <= largest <= 1")
    if config.views.resize < config.views.size:
        raise UserError(
            f"views.resize {config.views.resize} is smaller than views.size {config.views.size}: "
            "the centre crop would not fit; raise views.resize"
        )
    if is_url(config.data.shards) and config.data.retry_seconds >= config.runtime.timeout_seconds:
        raise UserError(
            f"data.retry_seconds {config.data.retry_seconds} is not below runtime.timeout_seconds "
            f"{config.runtime.timeout_seconds}: the other ranks would time out first; lower it"
        )
    optimiser = config.optimiser
    if optimiser.schedule != "steps" and optimiser.milestones:
        raise UserError(
            f"optimiser.milestones {optimiser.milestones} have no effect with optimiser.schedule "
            f"{optimiser.schedule}: set --optimiser.schedule steps, or no milestones"
        )
    index = config.index
    if index.nprobe > index.nprobe_max:
        raise UserError(f"index.nprobe {index.nprobe} is above index.nprobe_max {index.nprobe_max}: lower one")
    if not index.exact and index.backend == "torch":
        raise UserError(
            f"index.backend torch searches exactly, index.factory {index.factory!r} is faiss's: set --index.backend "
            "auto, or --index.factory Flat"
        )
    if 0 < config.data.decoded_side < config.views.resize:
        raise UserError(
            f"data.decoded_side {config.data.decoded_side} is smaller than views.resize {config.views.resize}, "
            "so that evaluation views would be upscaled: raise it, or set it to 0"
        )
    if config.train.precision == "tf32" and config.runtime.device == "cpu":
        raise UserError("train.precision tf32 needs a GPU and runtime.device is cpu: set it to fp32")
    if config.train.wandb and not find_spec("wandb"):
        raise UserError(
            f"train.wandb is {config.train.wandb!r}, but wandb is not installed: pip install -e '.[wandb]', "
            "or leave the key empty"
        )
    cached, wanted = config.views.cached, config.views.count
    if cached and config.model.trainable == "all" and not config.model.lora.rank:
        raise UserError(
            f"views.cached {cached} caches the output of the frozen part of the network, and model.trainable all "
            "has none: set --model.trainable head or blocks:N, or --views.cached 0"
        )
    if 0 < cached < wanted - 1:
        raise UserError(f"views.count {wanted} views of an image can't be drawn from {cached} cached ones and the "
                        f"evaluation view: raise --views.cached to {wanted - 1}")  # fmt: skip


def _check_batch(config: Config, world_size: int) -> None:
    groups, images, manifold = config.batch.groups, config.batch.images, config.manifold
    if world_size > images:
        raise UserError(
            f"a batch of {images} images (batch.groups {groups} x batch.group_size {config.batch.group_size}) can't be "
            f"split over {world_size} ranks: start {images} ranks at most, or raise --batch.groups"
        )
    if config.model.batch_norm == "synchronised" and config.batch.micro_batches > 1:
        raise UserError(
            "model.batch_norm synchronised needs the statistics of the whole batch, but batch.micro_batches "
            f"{config.batch.micro_batches} splits it: set --batch.micro_batches 1, "
            "or --model.batch_norm frozen"
        )
    _check_strategy(config, world_size)
    for key, value in (("manifold.scope", manifold.scope), ("model.batch_norm", config.model.batch_norm)):
        if config.batch.locality and value in ("rank", "per_rank"):
            raise UserError(f"batch.locality changes the groups of a rank, on which {key} {value} depends: disable one")


def _check_strategy(config: Config, world_size: int) -> None:
    if config.runtime.strategy == "deepspeed":
        _check_deepspeed(config)
    if config.runtime.compile:
        _check_compile(config)
    if config.runtime.strategy != "reproducible":
        return
    if config.runtime.lanes < world_size:
        raise UserError(
            f"runtime.lanes {config.runtime.lanes} is less than the {world_size} ranks, and each needs at least one: "
            "raise --runtime.lanes, which changes the last bits of the result, or set --runtime.strategy ddp"
        )
    if config.batch.locality:
        raise UserError(
            "runtime.strategy reproducible needs a fixed order of sums, which batch.locality makes depend on the "
            "nodes: set --batch.locality false, or --runtime.strategy ddp"
        )
    if config.batch.micro_batches > 1:
        raise UserError(
            f"runtime.strategy reproducible uses runtime.lanes as micro-batches, batch.micro_batches is "
            f"{config.batch.micro_batches}: set --batch.micro_batches 1, or --runtime.strategy ddp"
        )
    if config.model.batch_norm != "frozen" or config.train.precision == "fp16":
        raise UserError(
            f"runtime.strategy reproducible does not support model.batch_norm {config.model.batch_norm} and "
            f"train.precision {config.train.precision}: it needs batch_norm frozen, and fp32, bf16 or fp64"
        )


def _check_deepspeed(config: Config) -> None:
    if config.train.precision not in ("fp32", "bf16"):
        raise UserError(
            f"runtime.strategy deepspeed trains in fp32 or bf16, not in {config.train.precision}: set "
            "--train.precision bf16, or --runtime.strategy ddp"
        )
    if config.model.pooling == "gem":
        raise UserError(
            "runtime.strategy deepspeed can't broadcast the exponent of model.pooling gem, which is a single number: "
            "set --runtime.strategy ddp, or --model.pooling avg"
        )


def _check_compile(config: Config) -> None:
    if config.runtime.strategy != "ddp":
        raise UserError(
            f"runtime.compile is for runtime.strategy ddp, not for {config.runtime.strategy}: disable it, or set "
            "--runtime.strategy ddp"
        )
    if config.model.batch_norm == "synchronised":
        raise UserError(
            "runtime.compile does not support the collectives of model.batch_norm synchronised: disable it, or "
            "set --model.batch_norm frozen"
        )
    from dist_plm.parallel.compiled import check_compiler

    check_compiler()


def _check_data(config: Config, world_size: int) -> None:
    manifest = manifest_of(config.data)
    for key, split in (
        ("data.train_split", config.data.train_split),
        ("data.test_split", config.data.test_split),
        ("data.gallery_split", config.data.gallery_split),
    ):
        if split and split not in manifest.splits:
            mend = (
                "name one, or train without evaluation: --data.test_split ''"
                if key == "data.test_split"
                else "name one"
            )
            raise UserError(
                f"{key} is {split!r}, but {config.data.shards} has the splits {', '.join(manifest.splits)}: {mend}"
            )
        if split:
            open_split(config.data, split).close()
    if not config.data.train_split:
        raise UserError(f"data.train_split is empty: name one of {config.data.shards}, {', '.join(manifest.splits)}")
    samples = manifest.splits[config.data.train_split].samples
    if samples < config.batch.images:
        raise UserError(
            f"split {config.data.train_split!r} of {config.data.shards} has {samples} images, fewer than one batch of "
            f"{config.batch.images}: lower batch.groups or batch.group_size"
        )
    if config.model.head_start != "orthogonal" and samples <= config.model.dim:
        raise UserError(
            f"model.head_start {config.model.head_start} needs more images than model.dim {config.model.dim}, split "
            f"{config.data.train_split!r} of {config.data.shards} has {samples}: lower --model.dim, or set "
            "--model.head_start orthogonal"
        )
    if is_searched(config):
        place_run(config, samples, world_size)
