"""Data sets at URLs that a stranger chose, on servers that a stranger runs."""

import gzip
import http.server
import json
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from dist_plm.config import DataConfig
from dist_plm.data.opening import open_split
from dist_plm.data.remote import mirror, spans
from dist_plm.data.remote.spans import Remote, Span, StoreFailure
from dist_plm.errors import UserError

MANIFEST = {
    "format": 1,
    "name": "x",
    "fingerprint": "0" * 64,
    "rejected": 0,
    "splits": {"train": {"samples": 0, "labelled": False, "classes": [], "shards": [], "tables": {}}},
}


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers each request by `act`, and counts the bytes of bodies that it got rid of."""

    def do_GET(self):
        with suppress(ConnectionError):
            self.server.act(self)

    def begin(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, data):
        self.server.sent += self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(act):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.act, server.sent, server.daemon_threads = act, 0, True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}/set"
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    mirror._manifest.cache_clear()
    monkeypatch.setattr(spans, "FIRST_PAUSE", 0.001)


@pytest.mark.parametrize(
    "url",
    [
        "reference::file:///{here}/r.json",
        "file:///{here}",
        "https://h/x::file:///{here}",
        "simplecache::http://h/x",
        "http://h/x::reference://",
        "ssh://host/x",
        "local:///{here}",
        "memory://x",
        "zip://x::file:///{here}/x.zip",
        "HTTP://h/x",
        "http://",
        "http://h/\x1b[31mx",
    ],
)
def test_only_plain_urls_of_four_kinds_are_read(tmp_path, url):
    """fsspec's other file systems read local files, start ssh, and rendered templates of a stranger's."""
    made = tmp_path / "made"
    template = f"{{{{ cycler.__init__.__globals__.os.mkdir('{made}') }}}}"
    references = {"version": 1, "templates": {"t": template}, "refs": {"manifest.json": ["{{t}}"]}}
    (tmp_path / "r.json").write_text(json.dumps(references))
    data = DataConfig(shards=url.format(here=str(tmp_path)[1:]), cache_dir=str(tmp_path / "cache"), retry_seconds=1)
    with pytest.raises(UserError, match="is not a URL of a folder"):
        open_split(data, "train")
    assert not made.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fingerprint", "{here}/outside"),
        ("fingerprint", "../../outside"),
        ("fingerprint", "0" * 63 + "\n"),
        ("split", "../../outside"),
        ("table", "../outside.npy"),
        ("sha256", "../../outside"),
    ],
)
def test_no_name_of_a_manifest_leads_out_of_the_cache(tmp_path, key, value):
    value, cache = value.format(here=tmp_path), tmp_path / "a" / "b" / "cache"
    document = json.loads(json.dumps(MANIFEST))
    train = document["splits"]["train"]
    if key == "split":
        document["splits"] = {value: train}
        train["tables"] = {f"outside.{kind}.npy": {"bytes": 0, "sha256": "0" * 64} for kind in
                           ("offsets", "labels", "checks")}  # fmt: skip
    elif key == "fingerprint":
        document[key] = value
    else:
        train["tables"] = {value if key == "table" else "x.npy": {"bytes": 0, "sha256": value}}

    def act(request):
        request.begin()
        request.body(json.dumps(document).encode() if "manifest" in request.path else b"")

    with serving(act) as server, pytest.raises(UserError, match=r"manifest.json is not a manifest"):
        data = DataConfig(shards=server.url, cache_dir=str(cache), retry_seconds=1)
        open_split(data, value if key == "split" else "train")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "outside").exists()


def endless(request):
    request.begin(206)
    while True:
        request.body(bytes(1 << 16))


def unpacking(request):
    request.begin(206, Content_Encoding="gzip")
    request.body(gzip.compress(bytes(200_000_000), 1))


@pytest.mark.parametrize("end", [1_000, None])
@pytest.mark.parametrize("act", [endless, unpacking])
def test_no_more_is_taken_than_was_asked_for(monkeypatch, act, end):
    monkeypatch.setattr(spans, "WHOLE_BYTES", 1 << 20)
    with serving(act) as server:
        remote = Remote(server.url, 1.0)
        try:
            (found,) = remote.read([Span("x", 0, end)])
        except StoreFailure as failure:
            assert "received instead of" in str(failure) or "is larger than" in str(failure)
        else:
            assert found[:2] == b"\x1f\x8b" and len(found) <= 1 << 20  # as it came, which no check takes for anything
        assert remote.bytes <= (1 << 20) + 2
        assert server.sent < 1 << 24  # what fits into the buffers between the two


def test_nothing_is_unpacked():
    """Sizes and hashes are those of the bytes as they come."""
    packed, asked = gzip.compress(bytes(1_000)), []

    def act(request):
        asked.append(request.headers["Accept-Encoding"])
        request.begin(206, Content_Encoding="gzip", Content_Length=str(len(packed)))
        request.body(packed)

    with serving(act) as server:
        assert Remote(server.url, 1.0).read([Span("x", 0, len(packed))]) == [packed]
    assert asked == ["identity"]


def test_a_request_that_trickles_ends(monkeypatch):
    def trickle(request):
        request.begin(206)
        for _ in range(1_000):
            request.body(b"x")
            request.wfile.flush()
            time.sleep(0.02)

    monkeypatch.setattr(spans, "READ_SECONDS", 0.1)
    monkeypatch.setattr(spans, "CONNECT_SECONDS", 0.1)
    began = time.monotonic()
    with serving(trickle) as server, pytest.raises(StoreFailure, match="could not be read for"):
        Remote(server.url, 0.2).read([Span("x", 0, 1_000_000)])
    assert time.monotonic() - began < 10


def test_a_manifest_is_not_taken_from_another_host():
    """Nothing checks it; tables and images have checksums, and their host may send them elsewhere."""
    other = []

    def stranger(request):
        other.append(request.path)
        request.begin(206)
        request.body(b"0123456789")

    def act(request):
        to = f"http://localhost:{elsewhere.server_port}/set{request.path}" if "moved" in request.path else "/set/moved"
        request.begin(302, Location=to)

    with serving(stranger) as elsewhere, serving(act) as server:
        remote = Remote(server.url, 0.1)
        with pytest.raises(StoreFailure, match=r"redirects to 'http://localhost.*another host"):
            remote.read([Span("manifest.json", 0, None)])
        assert other == []
        assert remote.read([Span("x.tar", 0, 10)]) == [b"0123456789"]


def test_a_circle_of_redirects_ends():
    circle = serving(lambda request: request.begin(302, Location=request.path))
    with circle as server, pytest.raises(StoreFailure, match="redirects more than"):
        Remote(server.url, 5.0).read([Span("manifest.json", 0, None)])


def test_what_is_asked_for_at_once_is_bounded_in_bytes():
    """A stranger's table may claim the largest size for each of a thousand images."""
    groups = list(spans._at_once([Span("x", 0, 1 << 28)] * 7 + [Span("x", 0, 10)] * 100 + [Span("x", 0, None)]))
    assert sum(map(len, groups)) == 108
    assert max(sum(spans._end(span) - span.start for span in group) for group in groups) <= spans.IN_FLIGHT_BYTES
    assert max(map(len, groups)) <= spans.IN_FLIGHT
