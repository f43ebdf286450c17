"""R@K of the frozen features of the Caffe GoogLeNet, before any training, and what JPEG does to it. Markdown.

    python -m benchmarks.frozen_features SHARDS WEIGHTS

pool5 averaged, l2, cosine, on the test classes. Each view of each image is also embedded after one more encoding at
--quality: of the image without its first 3 rows and columns, since the 8 x 8 blocks of JPEG would otherwise fall where
they fell before. The image without them, not encoded again, is beside it.
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.common import machine
from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view
from dist_plm.evaluation import recall_at_k
from dist_plm.model import build_backbone

KS = (1, 2, 4, 8)
BATCH = 32
OFFSET = 3  # pixels
Change = Callable[[Image.Image], Image.Image]


def main() -> None:
    """Print a row a change and view."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="data set with a split `test`")
    parser.add_argument("weights", help="of the Caffe GoogLeNet")
    parser.add_argument("--views", nargs="+", default=["256,224", "160,160"], help="shorter side, centre crop")
    parser.add_argument("--quality", type=int, default=75, help="of the encoding")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = build_backbone(ModelConfig(weights=options.weights)).eval().to(memory_format=torch.channels_last)
    print(
        f"`python -m benchmarks.frozen_features {' '.join(sys.argv[1:])}` on {machine()}, torch {torch.__version__}\n"
    )
    print("| images | shorter side, crop | " + " | ".join(f"R@{k}" for k in KS) + " |")
    print("| --- | --- |" + " ---: |" * len(KS))
    changes: dict[str, Change] = {
        "unchanged": lambda image: image,
        f"without {OFFSET} rows and columns": _cut,
        f"the same, re-encoded at quality {options.quality}": lambda image: _encoded(_cut(image), options.quality),
    }
    with Store(options.shards, "test") as store, torch.inference_mode():
        labels = torch.from_numpy(store.labels.astype(np.int64))
        for resize, size in (map(int, view.split(",")) for view in options.views):
            for name, change in changes.items():
                config = ViewsConfig(size=size, resize=resize)
                pooled = torch.cat([backbone(images).mean((2, 3)) for images in _images(store, config, change)])
                recall = recall_at_k(torch.nn.functional.normalize(pooled), labels, KS)
                cells = " | ".join(f"{100 * share:.2f}" for share in recall.values())
                print(f"| {name} | {resize}, {size} | {cells} |", flush=True)


def _images(store: Store, config: ViewsConfig, change: Change) -> Iterator[Tensor]:
    views = (eval_view(change(store.read_image(id)), config=config) for id in range(len(store)))
    while batch := list(islice(views, BATCH)):
        yield torch.from_numpy(np.stack(batch)).to(memory_format=torch.channels_last)


def _cut(image: Image.Image) -> Image.Image:
    return image.crop((OFFSET, OFFSET, *image.size))


def _encoded(image: Image.Image, quality: int) -> Image.Image:
    image.save(file := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


if __name__ == "__main__":
    main()
