"""`python -m dist_plm.toy`: the paper's figure 1, three crossing curves, before and after training.

In space the curves don't intersect. The embedding starts as their projection onto the plane, where they do, so that
close points of different curves are similar; a small network, trained without labels by the method's losses, separates
the curves. How well varies with the seed.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_plm.cli import OneLineParser, run_command
from dist_plm.config import Config, ManifoldConfig, ModelConfig, ProxiesConfig
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from dist_plm.manifold import Neighbourhoods

# The paper's values but for m = 1, since lines are what a plane holds, and a momentum that fits 150 steps.
CONFIG = Config(
    model=ModelConfig(dim=2, momentum=0.9),
    manifold=ManifoldConfig(dim=1, k=10, threshold=0.9, n_alpha=4.0),
    proxies=ProxiesConfig(count=9, lr_scale=5.0),
)
LR = 3e-3
Window = tuple[tuple[float, float], tuple[float, float]]
COLOURS = ("#c8403a", "#d99a1c", "#2f6db5")
INK = "#444444"


@dataclass(frozen=True)
class Frame:
    """The momentum encoder's plane after some steps.

    Args:
        step: Steps done.
        points: [n, 2].
        neighbourhoods: Their linear neighbourhoods.
        purity: Share of the members of X_i that are of the curve of x_i, over all i.
    """

    step: int
    points: "Tensor"
    neighbourhoods: "Neighbourhoods"
    purity: float


def main() -> int:
    """Train and draw: crossing_curves.png and crossing_curves.gif."""
    options = _parse()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out} can't be created ({error.strerror}): choose another folder") from error
    frames, curve = train(options.steps, options.points, options.seed)
    window = _window(frames)
    with replacing(options.out / "crossing_curves.png") as file:
        draw([frames[0], frames[-1]], curve, window, size=4.6, dpi=150).save(file, "PNG", optimize=True)
    moving = [draw([frame], curve, window, size=4.6, dpi=90).quantize(48) for frame in frames]
    durations = [1200, *[140] * (len(moving) - 2), 2500]
    with replacing(options.out / "crossing_curves.gif") as file:
        moving[0].save(file, "GIF", save_all=True, append_images=moving[1:], duration=durations, loop=0, optimize=True)
    before, after = f"{frames[0].purity:.1%}", f"{frames[-1].purity:.1%} after {frames[-1].step} steps"
    print(f"{options.out}: members of a local neighbourhood (X_i) on the curve of x_i: {before} before, {after}")
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.toy", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the two pictures")
    parser.add_argument("--steps", type=int, default=150, help="steps of training")
    parser.add_argument("--points", type=int, default=36, help="points of a curve")
    parser.add_argument("--seed", type=int, default=0, help="of the points and of the network")
    options = parser.parse_args()
    if options.steps < 1 or options.points <= CONFIG.manifold.k:
        raise UserError(f"--steps must be at least 1 and --points more than {CONFIG.manifold.k}")
    if not -(2**63) <= options.seed < 2**64:
        raise UserError(f"--seed {options.seed}: must lie in -2^63 .. 2^64 - 1")
    return options


def curves(count: int, seed: int) -> tuple["Tensor", "Tensor"]:
    """Points [3 count, 3] on three curves, one above the other, and the curve int64 [3 count] of each."""
    import torch

    t, up = torch.linspace(-1, 1, count), torch.ones(count)
    wave = torch.stack([0.9 * t, 0.45 * torch.sin(2.6 * t), 0 * up], 1)
    arch = torch.stack([0.75 * t - 0.05, 0.7 - 1.26 * t.square(), 0.6 * up], 1)
    bow = torch.stack([0.25 * torch.cos(2.2 * t) - 0.05 + 0.25 * t, 0.95 * t, -0.6 * up], 1)
    x = torch.cat([wave, arch, bow])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + 0.012 * noise, torch.arange(3).repeat_interleave(count)


def network(seed: int) -> "nn.Module":
    """(x, y, h) -> (x, y) + MLP(x, y, h); the MLP starts at 0."""
    import torch
    from torch import nn

    class Shadow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = [nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
            last = nn.Linear(64, 2)
            self.bend = nn.Sequential(*hidden, last)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :2] + self.bend(x)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Shadow()


def train(steps: int, count: int, seed: int, frames: int = 25) -> tuple[list[Frame], "Tensor"]:
    """Train on all points at once; the frames, about `frames` of them from first to last, and the points' curves."""
    import torch

    from dist_plm.distributed.world import World
    from dist_plm.methods import Points, build_method
    from dist_plm.model.teacher import Teacher

    x, curve = curves(count, seed)
    student, method = network(seed), build_method("plm", CONFIG, World())
    teacher = Teacher(student, CONFIG.model.momentum)
    optimiser = torch.optim.Adam(student.parameters(), lr=LR)
    optimiser.add_param_group({"params": list(method.parameters()), "lr": LR * CONFIG.proxies.lr_scale})
    shown = {round(steps * number / frames) for number in range(frames + 1)}
    seen = [_look(0, teacher(x), curve)]
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        method(Points(student(x), teacher(x), views=1)).share.backward()
        optimiser.step()
        teacher.update(student)
        if step in shown:
            seen.append(_look(step, teacher(x), curve))
    return seen, curve


def _look(step: int, points: "Tensor", curve: "Tensor") -> Frame:
    import torch

    from dist_plm.evaluation.pair_quality import Purity
    from dist_plm.methods.piecewise import neighbourhoods

    hoods = neighbourhoods(points, points, torch.arange(len(points)), CONFIG.manifold)
    return Frame(step, points, hoods, Purity.of(curve[hoods.indices], hoods.members).means["same_label"])


def draw(frames: list[Frame], curve: "Tensor", window: Window, *, size: float, dpi: int) -> "Image":
    """Frames side by side, each `size` inches wide: points by curve, and the segment of P_i that X_i covers."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(size * len(frames), size), dpi=dpi, facecolor="white", layout="constrained")
    for axes, frame in zip(figure.subplots(1, len(frames), squeeze=False)[0], frames, strict=True):
        segments = _segments(frame)
        for number, colour in enumerate(COLOURS):
            members = curve == number
            axes.plot(*segments[members].permute(2, 1, 0).numpy(), color=colour, linewidth=5, alpha=0.13,
                      solid_capstyle="round")  # fmt: skip
            axes.scatter(*frame.points[members].T.numpy(), color=colour, s=13, linewidths=0, zorder=3)
        axes.set(xlim=window[0], ylim=window[1], aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("#dddddd")
        when = f"after {frame.step} steps" if frame.step else "before training"
        axes.set_title(f"{when}: {frame.purity:.0%} of neighbours are on the same curve", fontsize=9, color=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _window(frames: list[Frame]) -> Window:
    """The square that holds all frames, with a margin, so that nothing but the points moves."""
    import torch

    points = torch.cat([frame.points for frame in frames])
    low, high = points.amin(0), points.amax(0)
    centre, half = (low + high) / 2, 0.54 * float((high - low).max())
    (left, bottom), (right, top) = (centre - half).tolist(), (centre + half).tolist()
    return (left, right), (bottom, top)


def _segments(frame: Frame) -> "Tensor":
    """Both ends [n, 2, 2] of the piece of P_i, a line through x_i, onto which the members of X_i project."""
    import torch

    x, u = frame.points, frame.neighbourhoods.basis[:, :, 0]
    along = torch.einsum("nkd,nd->nk", x[frame.neighbourhoods.indices] - x[:, None], u) * frame.neighbourhoods.members
    return x[:, None] + torch.stack([along.amin(1), along.amax(1)], 1)[:, :, None] * u[:, None]


if __name__ == "__main__":
    run_command(main)
