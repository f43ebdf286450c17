"""What a stranger may do to `serve`: nobody else waits for it."""

import socket
import threading
import time
import urllib.request
from contextlib import ExitStack

import pytest
from waitress import create_server

from dist_plm import serve
from dist_plm.search_index import web
from dist_plm.search_index.web import create_app, loopback_names
from tests.end_to_end.test_serve import search_index  # noqa: F401


def test_who_waits_for_a_slow_image_is_told_so(search_index, monkeypatch):  # noqa: F811
    data, entered, leave = search_index.images.read(3), threading.Event(), threading.Event()
    client = create_app(search_index, most_bytes=10**6, host="127.0.0.1").test_client()
    embed = type(search_index).embed

    def slow(self, image):
        entered.set()
        assert leave.wait(60)
        return embed(self, image)

    monkeypatch.setattr(type(search_index), "embed", slow)
    monkeypatch.setattr(web, "BUSY_SECONDS", 0.05)
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/search", data=data)))
    first.start()
    assert entered.wait(60)
    for answer in (client.post("/search", data=data), client.get("/images/3")):
        assert answer.status_code == 503 and "try again" in answer.get_json()["error"]
    assert client.get("/about").status_code == client.get("/search?row=3").status_code == 200
    leave.set()
    first.join()
    assert answers[0].status_code == 200
    assert client.get("/images/3").status_code == 200  # the failure before is not remembered


def test_connections_that_are_half_open_hold_nobody_up(search_index):  # noqa: F811
    app = create_app(search_index, most_bytes=10**6, host="127.0.0.1")
    server = create_server(app, host="127.0.0.1", port=0, **serve.BOUNDS)
    threading.Thread(target=server.run, daemon=True).start()
    with ExitStack() as stack:
        for _ in range(200):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", server.effective_port)))
            half.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nx")
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.effective_port}/about", timeout=60) as answer:
            assert answer.status == 200
        assert time.monotonic() - began < 10
    server.close()


NAMES = {
    "127.0.0.1": ["127.0.0.1:8000", "localhost", "[::1]:8000"],
    "::1": ["[::1]:8000", "localhost:8000", "[::1]"],
    "127.0.0.2": ["127.0.0.2:80", "localhost"],
    "0:0:0:0:0:0:0:1": ["[::1]:8000"],
}
STRANGERS = [
    "evil.example",
    "localhost.evil.example",
    "[::2]",
    "127.0.0.1.evil",
    "",
    "[",
    "127.0.0.3",
    "evil@localhost:x",
]


@pytest.mark.parametrize("host", NAMES)
def test_pages_elsewhere_reach_no_form_of_loopback(search_index, host):  # noqa: F811
    client = create_app(search_index, most_bytes=10**6, host=host).test_client()
    for name in NAMES[host]:
        assert client.get("/about", headers={"Host": name}).status_code == 200, name
    for name in STRANGERS:
        assert client.get("/about", headers={"Host": name}).status_code == 400, name


def test_an_address_of_the_network_has_any_name():
    assert loopback_names("0.0.0.0") == loopback_names("192.0.2.7") == loopback_names("::") == frozenset()
