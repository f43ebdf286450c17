"""Byte ranges of files at an http, https, s3 or gs URL, with bounded retries.

Failed requests are retried with exponential backoff for up to `retry_seconds`; a missing or forbidden file fails at
once. Only data that pass the caller's check are returned.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dist_plm.data.format import MANIFEST_BYTES
from dist_plm.errors import RunFailure, UserError

BLOCK = 1 << 23  # bytes of a request for a part of a table, or of a sweep
IN_FLIGHT = 64  # requests at once: at 30 ms each, 2,000 a second
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds
IN_FLIGHT_BYTES = 1 << 29  # concurrently: an untrusted table may claim 256 MiB for each image
WRONG_TRIES = 3  # a failing store may recover; data that are wrong three times are permanently damaged
CONNECT_SECONDS, READ_SECONDS = 10, 30  # a connection that is idle for longer is considered dead
SLOWEST = 100_000  # bytes per second below which a request is aborted
WHOLE_BYTES = MANIFEST_BYTES  # size limit of a file of unknown size
# A closed list: a URL may come from an untrusted configuration, and other fsspec schemes read local files, run
# commands over SSH or render templates.
SCHEMES = ("http", "https", "s3", "gs")
_KNOWN = ", ".join(f"{scheme}://" for scheme in SCHEMES)


class Span(NamedTuple):
    """Bytes start .. end - 1 of a file; the whole file, of at most WHOLE_BYTES, if `end` is None."""

    file: str
    start: int
    end: int | None


class StoreFailure(RunFailure):
    """A remote store does not respond, or returns wrong data."""


class Refused(RunFailure):
    """A response that is refused and not retried."""


class Remote:
    """The folder at `url`. Thread-safe.

    Args:
        url: Of one of SCHEMES.
        retry_seconds: How long failed requests are retried.

    Attributes:
        requests: Requests sent so far.
        bytes: Bytes received so far.

    Raises:
        UserError: A URL of another kind, or the package that reads it is not installed.
    """

    def __init__(self, url: str, retry_seconds: float) -> None:
        if "?" in url or "#" in url:
            raise UserError(f"{url}: the URL of a folder of shards has no query and no fragment")
        self.url, self.retry_seconds = url.rstrip("/"), retry_seconds
        self._files, self._path = _file_system(self.url, retry_seconds)
        self.requests = self.bytes = 0
        self._lock, self._down_since = threading.Lock(), 0.0

    def read(self, spans: Sequence[Span], is_sound: Callable[[int, bytes], bool] | None = None) -> list[bytes]:
        """The bytes of each span, requested concurrently.

        Args:
            is_sound: Called as (position of the span, its bytes); False for bytes that are not the data set's.

        Raises:
            StoreFailure: A file is missing, permanently damaged, or unavailable for `retry_seconds`.
        """
        answers: dict[int, bytes] = {}
        waiting, wrong, asked, pause = list(range(len(spans))), dict.fromkeys(range(len(spans)), 0), 0.0, FIRST_PAUSE
        while waiting:
            faults, began = {}, time.monotonic()
            for number, answer in zip(waiting, self._ask([spans[number] for number in waiting]), strict=True):
                fault = self._fault(spans[number], answer)
                if not fault and is_sound and not is_sound(number, answer):
                    wrong[number] += 1
                    fault = "the bytes are not those of the data set (the checksum differs)"
                if fault:
                    faults[number] = fault
                else:
                    answers[number] = answer
            waiting = list(faults)
            if waiting:
                asked = asked or began
                for number, fault in faults.items():
                    if wrong[number] >= WRONG_TRIES:
                        raise StoreFailure(f"{self._place(spans[number])}: {fault}, {WRONG_TRIES} times in a row")
                self._give_up_late(min(asked, self._down_since or asked), spans[waiting[0]], faults[waiting[0]])
                # Jitter, so that ranks don't retry simultaneously.
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
        return [answers[number] for number in range(len(spans))]

    def _ask(self, spans: list[Span]) -> list[Any]:
        """Bytes, or the exception of each request."""
        answers: list[Any] = []
        for group in _at_once(spans):
            paths = [f"{self._path}/{span.file}" for span in group]
            starts, ends = [span.start for span in group], [_end(span) for span in group]
            answers += self._files.cat_ranges(paths, starts, ends, on_error="return")
        received = [len(answer) for answer in answers if isinstance(answer, bytes)]
        with self._lock:
            self.requests, self.bytes = self.requests + len(answers), self.bytes + sum(received)
            self._down_since = 0.0 if received else self._down_since or time.monotonic()
        return answers

    def _fault(self, span: Span, answer: Any) -> str:
        """Error of a response, "" for none. Raises StoreFailure for one that a retry can't fix."""
        if isinstance(answer, FileNotFoundError):
            raise StoreFailure(f"{self._place(span)} does not exist")
        if isinstance(answer, Refused):
            raise StoreFailure(str(answer))
        refused = isinstance(answer, PermissionError) or getattr(answer, "status", 0) in (401, 403)
        if refused or "Credentials" in type(answer).__name__:  # botocore's NoCredentialsError, and its like
            raise StoreFailure(f"{self._place(span)} access denied ({_said(answer)}): check the credentials")
        if isinstance(answer, BaseException):
            return _said(answer)
        if span.end is None:
            if len(answer) > WHOLE_BYTES:
                raise StoreFailure(f"{self._place(span)} is larger than {WHOLE_BYTES:,} bytes")
            return ""
        if len(answer) == span.end - span.start:
            return ""
        fault = f"{len(answer):,} bytes received instead of {span.end - span.start:,}"
        if len(answer) > span.end - span.start:
            raise StoreFailure(f"{self._place(span)}: {fault}: its server does not support range requests")
        return fault

    def _give_up_late(self, since: float, span: Span, fault: str) -> None:
        waited = time.monotonic() - since
        if waited > self.retry_seconds:
            raise StoreFailure(
                f"{self._place(span)} could not be read for {waited:,.0f} s ({fault}): "
                "rerun the command when the store is available again"
            )

    def _place(self, span: Span) -> str:
        return f"{self.url}/{span.file}"


def _file_system(url: str, retry_seconds: float) -> tuple[Any, str]:
    """The file system for a URL, and the folder's path in it."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest.strip("/") or "::" in rest or not url.isprintable():
        raise UserError(f"{url!a} is not a URL of a folder: it must begin with {_KNOWN}")
    try:
        from dist_plm.data.remote.bounded import bounded

        files = bounded(scheme, retry_seconds)
        return files, files._strip_protocol(url).rstrip("/")
    except ImportError as error:
        package = "-e '.[remote]'" if scheme != "gs" else "gcsfs"
        raise UserError(f"{url} needs a package that is not installed ({error}): pip install {package}") from error
    except ValueError as error:
        raise UserError(f"{url} can't be read as a URL ({error})") from error


def _at_once(spans: list[Span]) -> Iterator[list[Span]]:
    """The spans in groups of at most IN_FLIGHT requests and IN_FLIGHT_BYTES, or of one span."""
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and (len(group) == IN_FLIGHT or size + _end(span) - span.start > IN_FLIGHT_BYTES):
            yield group
            group, size = [], 0
        group.append(span)
        size += _end(span) - span.start
    if group:
        yield group


def _end(span: Span) -> int:
    """The end of the requested range; for a whole file one byte more than its limit."""
    return WHOLE_BYTES + 1 if span.end is None else span.end


def _said(error: BaseException) -> str:
    status = getattr(error, "status", "")
    return " ".join(f"{type(error).__name__} {status} {error}".split())[:200]
