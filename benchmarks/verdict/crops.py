"""Cache random crops of held-out test images: four as training draws them, two stronger (a small part, other light).

    python -m benchmarks.verdict.crops --out CACHE --config configs/cub200.yaml --data.shards data/cub200 \
        --model.weights bvlc_googlenet_fp16.safetensors --views.size 112 --views.resize 128

CACHE is that of `benchmarks.reproduction.features`; beside its files come held_out.npy (rows of the test split) and,
for each cut, held_out_crops.npy and held_out_strong.npy, float16 [n, crops, C, h, w].
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.reproduction.features import _pixels, _save
from dist_plm.cli import config_of, config_parser
from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.model.backbones import build_backbone
from dist_plm.model.bvlc_googlenet import BvlcGooglenet

IMAGES = 2_000
DRAWS = {"held_out_crops": 4, "held_out_strong": 2}
STRONG = {"scale": (0.05, 0.25), "brightness": 0.4}


def write(config: Config, folder: Path) -> None:
    """Fill the folder."""
    backbone = build_backbone(config.model)
    assert isinstance(backbone, BvlcGooglenet), "the bench knows where to cut bvlc_googlenet alone"
    backbone.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    with Store(config.data.shards, config.data.test_split) as store:
        rows = np.sort(np.random.default_rng(0).permutation(len(store.labels))[:IMAGES])
        np.save(folder / "held_out.npy", rows)
        for name, count in DRAWS.items():
            strong = name == "held_out_strong"
            drawn = replace(config, views=replace(config.views, **STRONG)) if strong else config  # type: ignore[arg-type]
            _save(backbone, _pixels(store, rows, drawn, count), len(rows), folder, name, count)


def main() -> None:
    """Read the command line and write."""
    parser = config_parser("train", __doc__ or "")
    parser.add_argument("--out", type=str, required=True, help="folder of the cache")
    parsed = parser.parse_args()
    write(config_of(parser, parsed), Path(parsed.out))


if __name__ == "__main__":
    main()
