"""A training loop as one would write it from the paper, beside this project's: images a second of both. Markdown.

    python -m benchmarks.baseline_loop SHARDS --size 112

One process, the same networks, batches of the same images, the same losses and updates. The plain loop has a DataLoader
over image files with torchvision's transforms, a Python loop over points for neighbourhoods and similarity, and one
over parameters for the momentum encoder; nothing in it is slowed down on purpose, and tests/unit/test_baseline_loop.py
holds its losses against the project's. Batches are of random images on both sides: neither sweeps nor searches. Both
run in turns.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.common import machine
from dist_plm.config import BatchConfig, Config, DataConfig, ManifoldConfig, ModelConfig, ViewsConfig
from dist_plm.data.loader import Loader, to_device
from dist_plm.data.store import Store
from dist_plm.distributed.connection import connect, disconnect
from dist_plm.model import Encoder
from dist_plm.telemetry.parts import Stopwatch
from dist_plm.training.learner import Learner, phases


def main() -> None:
    """Print the table."""
    options = _options()
    views = ViewsConfig(size=options.size, resize=max(256, options.size))
    batch, data = BatchConfig(groups=options.images // 2, group_size=2), DataConfig(workers=options.workers)
    config = Config(views=views, model=ModelConfig(backbone=options.backbone), batch=batch, data=data)
    world = connect(config.runtime)
    store = Store(options.shards, "train")
    with tempfile.TemporaryDirectory() as folder:
        files = unpacked(store, Path(folder), options.images * (options.steps + 2))
        sides = {"plain loop": plain(files, config), "dist_plm": ours(store, len(files), config, world)}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(1 + options.repeats):
            for name, steps in sides.items():
                seconds = [next(steps) for _ in range(options.steps)]
                if turn:  # the first fills caches and starts workers
                    rates[name].append(options.steps * options.images / sum(seconds))
    where = torch.cuda.get_device_name() if world.device.type == "cuda" else machine()
    print(f"`python -m benchmarks.baseline_loop {' '.join(sys.argv[1:])}`")
    print(f"on {where}, {torch.get_num_threads()} compute threads, torch {torch.__version__}\n")
    print("| loop | images/s | / plain |")
    print("|---|---:|---:|")
    for name, values in rates.items():
        over = median(a / b for a, b in zip(values, rates["plain loop"], strict=True))
        print(f"| {name} | {median(values):,.2f} | {over:.2f} |")
    disconnect(world)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--backbone", default="bvlc_googlenet")
    parser.add_argument("--size", type=int, default=227, help="of a view, pixels")
    parser.add_argument("--images", type=int, default=100, help="in a batch; two views of each")
    parser.add_argument("--steps", type=int, default=2, help="of one loop before it is the other's turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="that decode, of each loop")
    return parser.parse_args()


def unpacked(store: Store, folder: Path, most: int) -> list[Path]:
    """The first images of a split as files."""
    files = [folder / f"{id:08d}.jpg" for id in range(min(most, len(store)))]
    for id, file in enumerate(files):
        file.write_bytes(store.read(id))
    return files


class ImageFiles(Dataset):
    """Two random views of each file."""

    def __init__(self, files: list[Path], views: ViewsConfig) -> None:
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(views.size, scale=views.scale),
                transforms.RandomHorizontalFlip(views.flip),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.files[index]).convert("RGB")
        return torch.stack([self.transform(image), self.transform(image)])


def plain(files: list[Path], config: Config) -> Iterator[float]:
    """Seconds of each step of the plain loop, without end."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = DataLoader(
        *(ImageFiles(files, config.views), config.batch.images, True),
        num_workers=config.data.workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=config.data.workers > 0,
    )
    student, teacher = Encoder(config.model).to(device), Encoder(config.model).to(device)
    proxies = nn.Parameter(torch.randn(config.proxies.count, config.model.dim, device=device))
    bases = nn.Parameter(torch.randn(config.proxies.count, config.model.dim, config.manifold.dim, device=device))
    rate = config.optimiser.lr
    optimiser = torch.optim.Adam(student.parameters(), lr=rate, weight_decay=config.optimiser.weight_decay)
    optimiser.add_param_group({"params": [proxies, bases], "lr": rate * config.proxies.lr_scale, "weight_decay": 0.0})
    clock = Stopwatch(device)
    while True:
        began = clock.whole
        for images in data:
            images = 255 * images.flatten(0, 1).to(device, non_blocking=True)
            z = student(images)
            with torch.no_grad():
                x = teacher(images)
            loss = plain_loss(z, x, proxies, bases, config)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.mul_(config.model.momentum).add_(theirs, alpha=1 - config.model.momentum)
            yield clock.whole - began
            began = clock.whole


def plain_loss(z: Tensor, x: Tensor, proxies: Tensor, bases: Tensor, config: Config) -> Tensor:
    """Equations 6 to 9 for z [B, D] and x [B, D], a point at a time."""
    manifold, weights = config.manifold, config.loss
    with torch.no_grad():
        own = [neighbourhood(x, i, manifold) for i in range(len(x))]
        psi = torch.linalg.qr(bases)[0].unbind(0)
        rho = normalize(proxies)
        among = torch.stack([directed(x, y, u, manifold) for y, u in zip(x, own, strict=True)], 1)
        s = (among + among.T) / 2
        towards = torch.stack([directed(x, y, u, manifold) for y, u in zip(rho, psi, strict=True)], 1)
        away = torch.stack([directed(rho, y, u, manifold) for y, u in zip(x, own, strict=True)], 0)
        s_proxy = (towards + away) / 2
    apart = torch.cdist(z, z + 0, compute_mode="donot_use_mm_for_euclid_dist")
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    point = (weights.delta * (1 - s) - apart)[others].square().mean()
    proxy = (weights.delta * (1 - s_proxy) - torch.cdist(z, normalize(proxies))).square().mean()
    directions = torch.linalg.qr(bases)[0]
    cosines = torch.stack([torch.einsum("dm,pdk->pmk", u, directions).norm(dim=1) for u in own])
    neighbourhoods = (s_proxy[:, :, None] - cosines).square().mean()
    return weights.point * point + weights.proxy * proxy + weights.neighbourhood * neighbourhoods


def neighbourhood(x: Tensor, i: int, config: ManifoldConfig) -> Tensor:
    """Section 3.2 for point i: basis [D, m]."""
    distances = (x - x[i]).norm(dim=1)
    distances[i] = -1
    nearest = distances.argsort()[: config.k + 1]
    chosen = nearest[: config.dim].tolist()
    for candidate in nearest[config.dim :].tolist():
        v = x[[*chosen, candidate]] - x[i]
        u = torch.linalg.svd(v, full_matrices=False)[2][: config.dim].T
        rest = (v - v @ u @ u.T).square().sum(1)
        if (rest <= (1 - config.threshold) * v.square().sum(1)).all():
            chosen.append(candidate)
    v = x[chosen] - x[i]
    return torch.linalg.svd(v, full_matrices=False)[2][: config.dim].T


def directed(x: Tensor, y: Tensor, u: Tensor, config: ManifoldConfig) -> Tensor:
    """s'(x_i, y) of equation 2 for all points [B, D] and one neighbourhood u [D, m] around y [D] -> [B]."""
    v = x - y
    inside = v @ u
    o = (v - inside @ u.T).norm(dim=1)
    return (1 + o / 2) ** -config.n_alpha * (1 + inside.norm(dim=1)) ** -config.n_beta


def ours(store: Store, images: int, config: Config, world) -> Iterator[float]:  # type: ignore[no-untyped-def]
    """Seconds of each step of this project's loop, without end."""
    learner, clock = Learner(config, world, phases(config)[-1]), Stopwatch(world.device)
    for epoch in range(10**6):
        order = np.random.default_rng(epoch).permutation(images)
        rows = order[: images // config.batch.images * config.batch.images].reshape(-1, config.batch.images)
        loader = Loader(
            *(store, rows),
            views=config.views,
            seed=0,
            epoch=epoch,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            pin=world.device.type == "cuda",
        )
        began = clock.whole
        for batch in loader:
            learner.step(to_device(batch, world.device), 0, 10**6)
            yield clock.whole - began
            began = clock.whole


if __name__ == "__main__":
    main()
