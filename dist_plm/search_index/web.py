"""Web page and HTTP API of an index.

    GET  /                      the page
    GET  /about                 summary of the index
    POST /search?k=12           body: the bytes of an image file -> {"neighbours": [...]}
    GET  /search?row=5&k=12     the same for an image of the index, without itself
    GET  /images/5              a JPEG of at most THUMBNAIL pixels a side

Errors are {"error": "message"} with status 400, 404, 413, or 503 if the server is busy or the
store of the images does not respond.
"""

import io
import ipaddress
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from flask import Flask, Response, jsonify, request
from PIL import Image
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, ServiceUnavailable

from dist_plm.data.decode import decode
from dist_plm.errors import RunFailure, UserError
from dist_plm.search_index.search_index import Neighbour, SearchIndex

MOST_K = 100
THUMBNAIL, QUALITY = 480, 85
KEPT = 2_048  # thumbnails in memory, about 30 kB each
EXAMPLES = 12
BUSY_SECONDS = 10.0  # longest wait for another request's image to be decoded

_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(search_index: SearchIndex, *, most_bytes: int, host: str) -> Flask:
    """The application.

    Args:
        search_index: The index.
        most_bytes: Largest upload.
        host: Listening address; for a loopback address other host names in a request are refused, since a foreign
            page could have its name resolve to this machine (DNS rebinding).
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = most_bytes
    app.before_request(lambda: _refuse_strangers(loopback_names(host)))
    service = _Service(search_index)
    app.add_url_rule("/", "page", lambda: Response(_page(), mimetype="text/html"))
    app.add_url_rule("/about", "about", lambda: jsonify(service.about()))
    app.add_url_rule("/search", "search", lambda: jsonify(service.search_bytes()), methods=["POST"])
    app.add_url_rule("/search", "search_row", lambda: jsonify(service.search_row()))
    app.add_url_rule("/images/<int:row>", "image", service.image)
    app.register_error_handler(Exception, lambda error: _told(error, app, most_bytes))
    app.after_request(_guarded)
    return app


class _Service:
    def __init__(self, search_index: SearchIndex) -> None:
        self._search_index = search_index
        # Decoding the largest image takes 640 MB, and the network all threads: one request at a time.
        self._busy = threading.Lock()
        self._thumbnail = lru_cache(KEPT)(self._make_thumbnail)

    def about(self) -> dict[str, Any]:
        search_index, count = self._search_index, len(self._search_index)
        # A golden-ratio stride, since an even one may hit the same classes repeatedly.
        shown = sorted({int(count * (number * 0.618034 % 1)) for number in range(EXAMPLES)})
        examples = [{"row": row, **_named(search_index.rows[row])} for row in shown]
        return {
            "count": count,
            "dim": search_index.embedder.dim,
            "encoder": str(search_index.embedder),
            "most_k": min(MOST_K, count),
            "examples": examples,
        }

    def search_bytes(self) -> dict[str, Any]:
        data, k = request.get_data(cache=False), self._k(len(self._search_index))
        if not data:
            raise ValueError("the request has no body: send an image file")
        with self._turn():
            (neighbours,) = self._search_index.search(self._search_index.embed(data), k)
        return _answer(neighbours)

    def search_row(self) -> dict[str, Any]:
        row = self._row(request.args.get("row", ""))
        k = self._k(len(self._search_index) - 1)
        query = self._search_index.embeddings[row : row + 1]
        (neighbours,) = self._search_index.search(query, k + 1)
        others = [neighbour for neighbour in neighbours if neighbour.row != row][:k]
        others = [replace(neighbour, rank=rank) for rank, neighbour in enumerate(others, 1)]
        return {**_answer(others), "query": {"row": row, **_named(self._search_index.rows[row])}}

    def image(self, row: int) -> Response:
        response = Response(self._thumbnail(self._row(str(row))), mimetype="image/jpeg")
        response.cache_control.max_age = 3_600
        return response

    def _make_thumbnail(self, row: int) -> bytes:
        try:
            data = self._search_index.images.read(row)  # before its turn: a remote store may take minutes
            with self._turn():
                image = decode(data)
                image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
        except (ValueError, OSError, UserError) as error:
            raise LookupError("the file of this image is missing") from error
        except RunFailure as error:
            raise ServiceUnavailable("the store of the images does not respond: try again later") from error
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._busy.acquire(timeout=BUSY_SECONDS):
            raise ServiceUnavailable("the server is busy with another search: try again")
        try:
            yield
        finally:
            self._busy.release()

    def _k(self, most: int) -> int:
        text = request.args.get("k", "12")
        most = min(MOST_K, most)
        if not text.isdecimal() or not 1 <= int(text) <= MOST_K:
            raise ValueError(f"k is {text[:20]!r}: it must be an integer from 1 to {MOST_K}")
        return min(int(text), most)

    def _row(self, text: str) -> int:
        if not text.isdecimal():
            raise ValueError(f"row is {text[:20]!r}: it must be an integer")
        if int(text) >= len(self._search_index):
            raise LookupError(f"there is no image {text[:20]}: this index has {len(self._search_index):,}")
        return int(text)


def loopback_names(host: str) -> frozenset[str]:
    """Names of this machine that a request may call it by if it listens on `host`; empty where all may reach it."""
    known = {"localhost", "127.0.0.1", "::1"}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return frozenset(known if host in known else ())
    return frozenset({*known, str(address)}) if address.is_loopback else frozenset()


def _refuse_strangers(names: frozenset[str]) -> None:
    host = re.fullmatch(r"\[([0-9a-fA-F:]+)\](?::\d+)?|([\w.-]+)(?::\d+)?", request.headers.get("Host", ""))
    name = (host[1] or host[2]).lower() if host else ""
    if names and name not in names:
        raise BadRequest(f"this server only accepts the host names {', '.join(sorted(names))}")


def _answer(neighbours: list[Neighbour]) -> dict[str, Any]:
    return {"neighbours": [neighbour.as_dict() for neighbour in neighbours]}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "label": row.get("label")}


@lru_cache(1)
def _page() -> bytes:
    return files("dist_plm.search_index").joinpath("page.html").read_bytes()


def _told(error: Exception, app: Flask, most_bytes: int) -> tuple[Response, int]:
    """Error response; bugs are logged."""
    if isinstance(error, RequestEntityTooLarge):
        return jsonify(error=f"the file is too large: {most_bytes / 1e6:g} MB at most"), 413
    if isinstance(error, HTTPException):
        return jsonify(error=error.description or error.name), error.code or 500
    if isinstance(error, LookupError):
        return jsonify(error=str(error.args[0])), 404
    if isinstance(error, (ValueError, UserError)):
        return jsonify(error=str(error)), 400
    app.logger.exception("a request failed")
    return jsonify(error="internal server error, see the server's log"), 500


def _guarded(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
