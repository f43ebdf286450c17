"""The images of a local shard from front to back, through `webdataset`."""

import tarfile
from collections.abc import Generator

from webdataset.tariterators import group_by_keys, tar_file_expander

from dist_plm.data.store import ADVICE, Shard
from dist_plm.errors import UserError


def images(shard: Shard) -> Generator[tuple[str, bytes], None, None]:
    """Key and image bytes of each sample of the shard; their number is checked.

    webdataset gets an open file, never a name: it would run the name `pipe:...` as a command, expand braces in it,
    rewrite or cache it as environment variables say, and refuse to open it in a process of a world larger than 1.
    """
    found = 0
    with open(shard.path, "rb") as file:
        try:
            members = tar_file_expander([{"url": shard.path.name, "stream": file}], select_files=_is_image)
            for sample in group_by_keys(members):
                images = [name for name in sample if not name.startswith("__")]
                if len(images) != 1:
                    raise UserError(
                        f"{shard.path}: sample '{sample['__key__']}' has {len(images)} images instead of one; "
                        f"{ADVICE} {shard.path.parent}"
                    )
                found += 1
                yield sample["__key__"], sample[images[0]]
        except tarfile.TarError as error:
            raise UserError(f"{shard.path} is not an intact tar; {ADVICE} {shard.path.parent}") from error
    if found != shard.samples:
        raise UserError(
            f"{shard.path} holds {found} samples, the manifest says {shard.samples}; {ADVICE} {shard.path.parent}"
        )


def _is_image(name: str) -> bool:
    # What a shard says of its images is not wanted here, and reading it would take a third of the time.
    return not name.endswith(".json")
