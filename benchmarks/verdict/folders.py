"""The verdict without labels of `dist-plm fit` on folders whose labels are known here and not there.

    python -m benchmarks.verdict.folders --images CUB_200_2011/images --weights tf_efficientnet_lite0_fp16.safetensors \
        --out RUNS
    python -m benchmarks.verdict.folders --table

Settings and folders are in folders.yaml. The true change of recall@1 is measured on all images of the folder, paired
with the start, and on the held-out ones alone.
A line for each network goes to folders.jsonl. Finished runs are skipped.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml

from benchmarks.common import machine
from benchmarks.reproduction.run import commit
from benchmarks.verdict.table import TRUTHS, truth
from dist_plm import train as training
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view
from dist_plm.encoders.networks import locate
from dist_plm.evaluation.label_free import neighbours
from dist_plm.evaluation.verdict import Word, paired, read_verdicts
from dist_plm.fit import __main__ as fit
from dist_plm.fit import run as running

PLAN, POINTS = (Path(__file__).parent / f"folders.{ending}" for ending in ("yaml", "jsonl"))
FORK = get_context("fork")
START = "not trained"
CHANGES = re.compile(r"\(([+-][0-9.]+ ± [0-9.]+)\)")  # in the sentence of a verdict


def main() -> None:
    """Read the command line and run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with a folder of images for each class")
    parser.add_argument("--weights", default="", help="file of pretrained weights")
    parser.add_argument("--out", type=Path, help="folder of photographs and runs")
    parser.add_argument("--folders", nargs="*", default=[], help="names of folders")
    parser.add_argument("--only", nargs="*", default=[], help="names of settings")
    parser.add_argument("--table", action="store_true", help="print the table of folders.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        return table()
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    lines = POINTS.read_text().splitlines() if POINTS.exists() else []
    known = {(point["folder"], point["setting"]) for point in map(json.loads, lines)}
    for folder, of in plan["folders"].items():
        if options.folders and folder not in options.folders:
            continue
        photos = copied(options.images, options.out / "photos" / folder, **of)
        for setting, own in plan["settings"].items():
            if (folder, setting) in known or (options.only and setting not in options.only):
                continue
            run = options.out / folder / setting.replace(", ", "__").replace(" ", "_")
            fitted(photos, run, f"{plan['base']} {own}", options)
            with POINTS.open("a") as file:
                for point in points(run, options.out / folder):
                    told = {"folder": folder, "setting": setting, "options": own}
                    file.write(json.dumps(told | point | {"commit": commit(), "machine": machine()}) + "\n")
            print(folder, setting, flush=True)


def copied(images: Path, photos: Path, *, species: int, each: int) -> Path:
    """Some images of some classes in one folder, so that their paths tell no label."""
    photos.mkdir(parents=True, exist_ok=True)
    for kind in sorted(path for path in images.iterdir() if path.is_dir())[:100:species]:
        for path in sorted(kind.iterdir())[:each]:
            shutil.copy(path, photos / path.name)
    return photos


def fitted(photos: Path, run: Path, line: str, options: argparse.Namespace) -> None:
    """Run `fit` without its index, or resume it."""
    cache = ["--data.cache_dir", str(options.out / "cache")]  # settings share the frozen features
    words = [str(photos), "--out", str(run), "--model.weights", options.weights, *cache, *shlex.split(line)]
    run.parent.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=_fit, args=(words, Path(f"{run}.log")))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"status {process.exitcode}: {run}.log")


def _fit(words: list[str], log: Path) -> None:
    """`dist_plm.fit` in a fork that need not import torch; its training too."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    running.run_ranks = _trained
    sys.argv = ["fit", *words]
    sys.exit(fit.main())


def _trained(module: str, words: list[str], ranks: int = 1) -> int:
    if module != "dist_plm.fit.part":
        return 0
    sys.argv = ["train", *words]
    return training.main()


def points(run: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The verdict on student and teacher, and their change of recall@1 since the start."""
    start = folder / ("random_head__not_trained" if run.name.startswith("random_head") else "not_trained")
    ids = np.load(run / "start" / "held_out_ids.npy")
    before = hits(start, "student")
    for model, verdict in read_verdicts(run).items():
        now = hits(run, model)
        yield {
            "model": model,
            "step": verdict.step,
            "word": verdict.word,
            "text": verdict.text,
            "recall": float(now.mean()),
            "recall_start": float(before.mean()),
            "recall_change": list(paired(now, before)),
            "held_out": len(ids),
            "held_out_change": list(paired(now[ids], before[ids])),
        }


def hits(run: Path, model: str) -> np.ndarray:
    """Whether the image nearest to each training image is of its class, int8 [n]."""
    kept = run / f"hits_{model}.npy"
    if kept.exists():
        return np.load(kept)
    trained = locate(run)
    embedder = trained.load(model, torch.device("cpu"))
    with Store(trained.config.data.shards, trained.config.data.train_split) as store:
        classes = np.array([str(store.about(id)["source"]).rpartition("_")[0].rpartition("_")[0]
                            for id in range(len(store.labels))])  # fmt: skip
        parts = np.array_split(np.arange(len(classes)), -(-len(classes) // 64))
        views = ([eval_view(store.read_image(int(id)), config=embedder.views) for id in part] for part in parts)
        z = torch.cat([embedder.embed(torch.from_numpy(np.stack(each))).float() for each in views])
    found = (classes[neighbours(z)[:, 0].numpy()] == classes).astype(np.int8)
    np.save(kept, found)
    return found


def table() -> None:
    """Every network of every run, and how often each word was right."""
    found = [json.loads(line) for line in POINTS.read_text().splitlines()]
    print(
        "| folder | setting | network | R@1 at the start | change, 95 % | other view | strong view | agree | verdict |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for point in found:
        change = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * each for each in point["recall_change"]))
        cells = [point["folder"], point["setting"], point["model"], f"{100 * point['recall_start']:.1f}", change]
        print(f"| {' | '.join([*cells, *CHANGES.findall(point['text'])[:3], point['word']])} |")
    trained = [point for point in found if not point["setting"].endswith(START)]
    print(f"\n{len(trained)} networks of {len({(p['folder'], p['setting']) for p in trained})} trained runs:\n")
    print(f"| verdict | {' | '.join(TRUTHS)} |\n| --- | ---: | ---: | ---: | ---: |")
    for word in get_args(Word):
        rows = [truth(point) for point in trained if point["word"] == word]
        print(f"| {word} | {' | '.join(str(rows.count(each)) for each in TRUTHS)} |")


if __name__ == "__main__":
    main()
