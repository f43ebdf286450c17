"""`python -m benchmarks.decoders SHARDS`: images a second of JPEG decoders, whole and with less to decode. Markdown.

All in one thread on the same images, in turns. A decoder that is not installed is left out: `pip install simplejpeg
PyTurboJPEG` brings two. `views` is decoding and two training views of --size, as the loader makes them; a decoder that
scales in the DCT domain may halve an image whose crop is to be no larger than that half.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.common import machine
from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.store import Store
from dist_plm.data.views import train_view

Pixels = Callable[[bytes], np.ndarray]  # RGB [h, w, 3]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=227, help="of a view, pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(options.shards, "train")
    files = [store.read(id) for id in range(min(options.images, len(store)))]
    decoders, views = whole() | scaled(options.size), ViewsConfig(size=options.size, resize=max(256, options.size))
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    seen: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(options.repeats):
        for name, pixels in decoders.items():
            rates[name].append(len(files) / _seconds(files, pixels))
            seen[name].append(len(files) / _seconds(files, _cutting(pixels, views)))
    exact = [np.asarray(decode(data)) for data in files]
    print(f"`python -m benchmarks.decoders {' '.join(sys.argv[1:])}` on {machine()}\n")
    sides = [image.shape for image in exact]
    print(f"{len(files)} JPEGs, {sum(map(len, files)) / len(files) / 1e3:.1f} kB and "
          f"{median(h for h, *_ in sides):.0f} x {median(w for _, w, _ in sides):.0f} pixels (medians), one thread, "
          f"medians of {options.repeats} repeats in turns.\n")  # fmt: skip
    print("| decoder | images/s | / decode | with 2 views, images/s | / decode | same pixels |")
    print("|---|---:|---:|---:|---:|---|")
    first = "decode (PIL)"
    for name, pixels in decoders.items():
        rate, view = median(rates[name]), median(seen[name])
        print(f"| {name} | {rate:,.0f} | {ratio(rates[name], rates[first])} | {view:,.0f} "
              f"| {ratio(seen[name], seen[first])} | {difference(files, pixels, exact)} |")  # fmt: skip


def ratio(over: list[float], under: list[float]) -> str:
    """Median of the ratios of repeats that ran side by side."""
    return f"{median(a / b for a, b in zip(over, under, strict=True)):.2f}"


def whole() -> dict[str, Pixels]:
    """Decoders of the whole image."""
    found: dict[str, Pixels] = {"decode (PIL)": lambda data: np.asarray(decode(data)), "PIL alone": _pil}
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        found["torchvision.io"] = lambda data: (
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            .permute(1, 2, 0)
            .numpy()
        )
    except (ImportError, RuntimeError) as error:
        print(f"no torchvision.io: {error}", file=sys.stderr)
    try:
        import simplejpeg

        found["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
        # The defaults of libjpeg-turbo trade exactness for speed here; these are PIL's.
        found["simplejpeg, exact"] = lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ImportError as error:
        print(f"no simplejpeg: {error}", file=sys.stderr)
    try:
        from turbojpeg import TJPF_RGB, TurboJPEG

        turbo = TurboJPEG()
        found["PyTurboJPEG"] = lambda data: turbo.decode(data, pixel_format=TJPF_RGB)
    except (ImportError, RuntimeError, OSError) as error:
        print(f"no PyTurboJPEG: {str(error).splitlines()[0]}", file=sys.stderr)
    return found


def scaled(size: int) -> dict[str, Pixels]:
    """Decoders that may halve the image in the DCT domain, as far as no side falls below `size`."""
    found: dict[str, Pixels] = {f"PIL, draft of {size}": lambda data: _draft(data, size)}
    try:
        import simplejpeg

        found[f"simplejpeg, at least {size}"] = lambda data: simplejpeg.decode_jpeg(
            data, "RGB", min_height=size, min_width=size, min_factor=1
        )
    except ImportError:
        pass
    return found


def _pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))


def _draft(data: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.draft("RGB", (size, size))
    return np.asarray(image.convert("RGB"))


def _cutting(pixels: Callable[[bytes], np.ndarray], config: ViewsConfig) -> Callable[[bytes], None]:
    return lambda data: _views(pixels(data), config)


def _views(pixels: np.ndarray, config: ViewsConfig) -> None:
    image = Image.fromarray(pixels)
    for view in range(config.count):
        train_view(image, config=config, seed=0, epoch=0, sample=0, view=view)


def _seconds(files: list[bytes], act: Callable[[bytes], object]) -> float:
    """CPU time, which other work on the machine leaves alone."""
    began = time.process_time()
    for data in files:
        act(data)
    return time.process_time() - began


def difference(files: list[bytes], pixels: Pixels, exact: list[np.ndarray]) -> str:
    """How far the pixels are from those of `decode`."""
    found = [pixels(data) for data in files]
    if any(each.shape != other.shape for each, other in zip(found, exact, strict=True)):
        smaller = [each.size / other.size for each, other in zip(found, exact, strict=True)]
        return f"no: {median(smaller):.2f} of them"
    off = [np.abs(each.astype(int) - other) for each, other in zip(found, exact, strict=True)]
    most = max(int(each.max()) for each in off)
    return "yes" if not most else f"off by {np.mean([each.mean() for each in off]):.2f} levels, {most} at most"


if __name__ == "__main__":
    main()
