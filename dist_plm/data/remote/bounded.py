"""fsspec file systems whose requests are bounded in time and size.

Servers are untrusted: a body is read up to one byte more than requested, to detect one that is too long; content
encoding is disabled; a slow transfer is aborted.
"""

import asyncio
from typing import Any
from urllib.parse import urljoin, urlsplit

import fsspec

from dist_plm.data.remote import spans

_REDIRECTS = 5


def seconds_for(size: int, patience: float) -> float:
    """Longest duration in seconds of a request for `size` bytes; `patience` is `data.retry_seconds`."""
    expected = spans.BLOCK if size > spans.WHOLE_BYTES else size
    return spans.CONNECT_SECONDS + spans.READ_SECONDS + min(patience, expected / spans.SLOWEST)


def bounded(scheme: str, patience: float) -> Any:
    """fsspec's file system for http, https, s3 or gs with these bounds.

    Raises:
        ImportError: The package that reads it is not installed.
    """
    parent: Any = fsspec.get_filesystem_class(scheme)
    if scheme in ("http", "https"):
        return _web(parent, patience)
    options: dict[str, Any] = {}
    if scheme == "s3":
        options["config_kwargs"] = {"connect_timeout": spans.CONNECT_SECONDS, "read_timeout": spans.READ_SECONDS}

    class Bucket(parent):
        async def _cat_file(self, path: str, start: int = 0, end: int = 0, **options: Any) -> bytes:
            read = super()._cat_file(path, start=start, end=end, **options)
            return bytes(await asyncio.wait_for(read, seconds_for(end - start, patience)))

    return Bucket(skip_instance_cache=True, **options)


def _web(parent: Any, patience: float) -> Any:
    import aiohttp

    class Web(parent):
        async def _cat_file(self, url: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
            """Bytes start .. end - 1, fewer where the file ends, one more where the server sends too many."""
            limits = aiohttp.ClientTimeout(
                total=seconds_for(end - start, patience),
                sock_connect=spans.CONNECT_SECONDS,
                sock_read=spans.READ_SECONDS,
            )
            session, ask = await self.set_session(), {"Range": f"bytes={start}-{end - 1}"}
            checked = end - start <= spans.WHOLE_BYTES  # images and tables have checksums, the manifest has none
            place = url
            for _hop in range(_REDIRECTS):
                async with session.get(
                    self.encode_url(place), headers=ask, timeout=limits, allow_redirects=checked
                ) as answer:
                    if 300 <= answer.status < 400 and "Location" in answer.headers:
                        place = _same_host(place, answer.headers["Location"])
                        continue
                    self._raise_not_found_for_status(answer, url)
                    return await _body(answer, end - start + 1)
            raise spans.Refused(f"{url} redirects more than {_REDIRECTS} times")

    plain = {"auto_decompress": False, "headers": {"Accept-Encoding": "identity"}}
    return Web(client_kwargs=plain, skip_instance_cache=True)


def _same_host(place: str, location: str) -> str:
    """Target of a redirect. Raises Refused for another host, or from https to http."""
    target = urljoin(place, location)
    before, after = urlsplit(place), urlsplit(target)
    if after.hostname != before.hostname or after.scheme not in (before.scheme, "https"):
        raise spans.Refused(
            f"{place} redirects to {target[:200]!r}, another host: if you trust it, use that URL instead"
        )
    return target


async def _body(answer: Any, limit: int) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        parts.append(part[: limit - size])
        size += len(parts[-1])
        if size == limit:
            answer.close()  # the rest is not read
            break
    return b"".join(parts)
