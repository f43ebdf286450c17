"""Kill a run at random in every phase, restart it, and compare the result with that of an uninterrupted run.

    python -m benchmarks.chaos --kills 50 --seed 0 --world constant --folder /tmp/chaos

After each kill every checkpoint is verified; a completed run is compared, and the next one begins.
`--world constant` is two ranks, and results must be bitwise identical. `--world mixed` draws 1 to 4 ranks for every
start and compares in float64. Ranks are forked; see benchmarks/forked_ranks.py.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import build_demo, tensors, timeless
from benchmarks.forked_ranks import Start
from dist_plm.checkpoint import checkpoint

CONFIG = """
data: {{shards: {shards}, workers: 1}}
views: {{size: 16, resize: 20, scale: [0.3, 1.0], flip: 0.0}}
model: {{backbone: small, dim: 16, momentum: 0.9}}
batch: {{groups: 12, group_size: 2}}
proxies: {{count: 7}}
warm_up: {{epochs: 1, lr: 2.0e-3}}
train: {{epochs: 3, log_steps: 1, evaluate_epochs: 2, report: false}}
evaluation: {{batch_size: 16, nmi: false}}
checkpoint: {{every_steps: 2}}
runtime: {{threads: 1, device: cpu, timeout_seconds: 60}}
"""
WORLDS = {"constant": [2], "mixed": [1, 2, 3, 4]}
VICTIMS = ("all ranks", "one rank", "the launcher")
PHASES = ("start-up", "evaluation", "sweep", "plan", "step", "save")
MOMENTS = (*PHASES, "any")
DELAY_SECONDS = 0.05  # after a phase began: most last longer


@dataclass
class Chaos:
    """Runs that are killed, and what was seen.

    Args:
        folder: For the data, the runs and their logs.
        world: A key of WORLDS.
    """

    folder: Path
    world: str
    seed: int
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    ranks: Counter[int] = field(default_factory=Counter)
    verified: int = 0
    compared: int = 0
    farthest: float = 0.0
    deck: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.config = self.folder / "config.yaml"
        self.config.write_text(CONFIG.format(shards=build_demo(self.folder / "data")))
        self.arguments = ("--train.precision", "fp64") if self.world == "mixed" else ()
        began = time.monotonic()
        self.expected = self.finish("unbroken")
        self.seconds = time.monotonic() - began

    def start(self, name: str) -> Start:
        ranks = self.chance.choice(WORLDS[self.world])
        self.ranks[ranks] += 1
        return Start(ranks, self.config, self.folder / name, *self.arguments)

    def finish(self, name: str) -> Path:
        """Let the command come to its end."""
        start = self.start(name)
        start.wait()
        if start.status:
            raise SystemExit(f"{start.run} ended with status {start.status}; see {start.run.with_suffix('.log')}")
        return start.run

    def break_runs(self, kills: int) -> None:
        """Kill run after run, so many times in all, and compare each when it comes to its end."""
        number = 0
        while self.kills.total() < kills:
            name, number = f"broken_{number}", number + 1
            while self.kills.total() < kills and self.strike(self.start(name)):
                pass
            self.compare(self.finish(name))
            shutil.rmtree(self.folder / name)

    def strike(self, start: Start) -> bool:
        """Kill a start at the next moment of a shuffled deck; False when it came to its end before."""
        if not self.deck:
            self.deck = list(product(MOMENTS, VICTIMS))
            self.chance.shuffle(self.deck)
        moment, victim = self.deck[-1]
        if moment in ("start-up", "any"):
            until = start.began + self.chance.uniform(0, self.seconds / (4 if moment == "start-up" else 1))
            start.wait(lambda: time.time() >= until)
        else:
            start.wait(lambda: start.phase() == moment)
            time.sleep(self.chance.uniform(0, DELAY_SECONDS))
        if start.status is not None:
            return False
        self.deck.pop()
        phase = start.phase()
        start.kill(victim, self.chance)
        self.kills[phase, victim] += 1
        self.verify(start.run)
        print(f"kill {self.kills.total()}: {victim} in {phase}", file=sys.stderr, flush=True)
        return True

    def verify(self, run: Path) -> None:
        """Every checkpoint that has its name is whole."""
        for path in run.glob("checkpoints/step_????????"):
            if fault := checkpoint.fault(path):
                raise SystemExit(f"{path}: {fault}")
            self.verified += 1

    def compare(self, run: Path) -> None:
        """Plans, logged numbers and final tensors against those of the unbroken run."""
        self.verify(run)
        if left := list(run.rglob("*.tmp")):
            raise SystemExit(f"left behind: {left}")
        logs, ends = [timeless(each) for each in (run, self.expected)], [tensors(each) for each in (run, self.expected)]
        if self.world == "constant":
            same = logs[0] == logs[1] and ends[0].keys() == ends[1].keys()
            same = same and all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
        else:
            self.farthest = max(self.farthest, _log_distance(*logs), _end_distance(*ends))
            same = self.farthest <= 1e-5
        if not same:
            raise SystemExit(f"{run} did not end as {self.expected} did (farthest {self.farthest:.1e})")
        self.compared += 1

    def report(self) -> str:
        """What was killed when, as a table."""
        lines = [f"| killed in | {' | '.join(VICTIMS)} | all |", f"|---{'|---' * (len(VICTIMS) + 1)}|"]
        for phase in dict.fromkeys([*PHASES, *(phase for phase, _ in self.kills)]):
            counts = [self.kills[phase, victim] for victim in VICTIMS]
            lines.append(f"| {phase} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        how = "bitwise identical"
        if self.world != "constant":
            how = f"with a largest difference of {self.farthest:.1e} (1e-5 allowed)"
        starts = ", ".join(f"{count} on {ranks}" for ranks, count in sorted(self.ranks.items()))
        return "\n".join([
            *lines, "",
            f"{self.kills.total()} kills, {sum(self.ranks.values())} starts ({starts} ranks), {self.verified} "
            f"checkpoints verified after kills and at ends, none damaged; {self.compared} runs completed, "
            f"{how}, and left no temporary file. The uninterrupted run took {self.seconds:.0f} s.",
        ])  # fmt: skip


def _log_distance(found: list[dict], expected: list[dict]) -> float:
    """The largest relative difference of a loss; infinite where a step, a plan or an evaluation is missing."""
    keys = ("event", "step", "epoch", "sha256", "model", "when")
    if [[each.get(key) for key in keys] for each in found] != [[each.get(key) for key in keys] for each in expected]:
        return float("inf")
    pairs = [(a[key], b[key]) for a, b in zip(found, expected, strict=True) for key in a if key.startswith("loss")]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def _end_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative distance of a tensor of student, teacher or proxies."""
    names = [name for name in expected if not name.startswith("optimiser.")]
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in names)


def main() -> None:
    """Print the report; stop at the first thing that is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=WORLDS, default="constant")
    parser.add_argument("--folder", type=Path, required=True, help="must not exist")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    chaos = Chaos(options.folder, options.world, options.seed)
    chaos.break_runs(options.kills)
    print(f"`python -m benchmarks.chaos {' '.join(sys.argv[1:])}`\n\n{chaos.report()}")


if __name__ == "__main__":
    main()
