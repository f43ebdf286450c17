"""Sequential reads of a local shard, grouped into samples by `webdataset`."""

import re
import tarfile
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

from webdataset.tariterators import group_by_keys

from dist_plm.data.format import MAX_BYTES
from dist_plm.data.shard_files import ADVICE, Shard
from dist_plm.errors import UserError
from dist_plm.files.tar_header import SmallHeader

# A shard holds tables beside its samples under such names; WebDataset skips them too.
_META = re.compile(r"__[^/]*__($|/)")


def images(shard: Shard) -> Generator[tuple[str, bytes], None, None]:
    """Key and image bytes of each sample of the shard; their number is checked."""
    count = 0
    with open(shard.path, "rb") as file:
        try:
            for sample in group_by_keys(_members(shard, file)):
                images = [name for name in sample if not name.startswith("__")]
                if len(images) != 1:
                    raise UserError(
                        f"{shard.path}: sample '{sample['__key__']}' has {len(images)} images instead of one; "
                        f"{ADVICE} {shard.path.parent}"
                    )
                count += 1
                yield sample["__key__"], sample[images[0]]
        # Manipulated headers make tarfile parse invalid numbers, and overlapping members.
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise UserError(f"{shard.path} is not an intact tar; {ADVICE} {shard.path.parent}") from error
    if count != shard.samples:
        raise UserError(
            f"{shard.path} holds {count} samples, the manifest says {shard.samples}; {ADVICE} {shard.path.parent}"
        )


def _members(shard: Shard, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """As webdataset's own tar reader, which decompresses files and reads members of any size."""
    with tarfile.open(fileobj=file, mode="r|", tarinfo=SmallHeader) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            # JSON records are skipped: reading them would take a third of the time.
            if not member.isreg() or member.name.endswith(".json") or _META.match(member.name):
                continue
            if member.size > MAX_BYTES:
                raise UserError(
                    f"{shard.path}: '{member.name}' has {member.size:,} bytes, an image at most {MAX_BYTES:,}; "
                    f"{ADVICE} {shard.path.parent}"
                )
            data = tar.extractfile(member)
            assert data is not None
            yield {"fname": member.name, "data": data.read(), "__url__": shard.path.name}
