"""The page and its interface: right answers, bounded requests, and a real browser where there is one."""

import io
import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from waitress import create_server

import dist_plm
from dist_plm import serve as serving
from dist_plm.distributed.world import World
from dist_plm.search_index.build import Builder
from dist_plm.search_index.images import FolderImages
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.search_index.web import create_app
from dist_plm.telemetry.progress import Display
from tests.commands import Command
from tests.end_to_end.conftest import refused
from tests.untrained import untrained

MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def search_index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    """20 plain colours in four folders, embedded by an untrained network."""
    folder = tmp_path_factory.mktemp("colours")
    for number, colour in enumerate(np.random.default_rng(0).integers(0, 256, (20, 3))):
        path = folder / "photos" / f"<b>class {number % 4}</b>" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + number, 24), tuple(colour.tolist())).save(path)
    images = FolderImages(folder / "photos")
    Builder(images, untrained(run="colours"), folder / "index", 1, World(), Display(World())).build()
    return SearchIndex(folder / "index")


@pytest.fixture
def client(search_index: SearchIndex) -> FlaskClient:
    return create_app(search_index, most_bytes=MOST_BYTES, host="127.0.0.1").test_client()


def told(response, status: int, words: str) -> None:
    assert response.status_code == status, response.text
    assert words in response.get_json()["error"] and "Traceback" not in response.text


def test_a_picture_finds_its_neighbours(client, search_index):
    data = search_index.images.read(7)
    answer = client.post("/search?k=5", data=data)
    expected = dist_plm.search_images(search_index, [data], k=5)[0]
    assert answer.status_code == 200
    assert answer.get_json()["neighbours"] == [each.as_dict() for each in expected]
    assert expected[0].row == 7


def test_an_image_of_the_index_finds_the_others(client, search_index):
    answer = client.get("/search?row=7&k=100").get_json()
    points = np.asarray(search_index.embeddings, dtype=np.float64)
    order = np.argsort(np.linalg.norm(points - points[7], axis=1), kind="stable")
    assert [each["row"] for each in answer["neighbours"]] == [row for row in order if row != 7]
    assert answer["query"] == {"row": 7, "name": search_index.rows[7]["name"], "label": search_index.rows[7]["label"]}


def test_images_come_as_small_jpegs(client, search_index):
    response = client.get("/images/3")
    with Image.open(io.BytesIO(response.data)) as image:
        assert image.format == "JPEG" and max(image.size) <= 480
        shown = np.asarray(image).mean((0, 1))
    with Image.open(io.BytesIO(search_index.images.read(3))) as image:
        assert np.abs(np.asarray(image).mean((0, 1)) - shown).max() < 4


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 81 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_a_stranger_may_send(client, search_index):
    assert len(bomb()) < MOST_BYTES
    told(client.post("/search", data=b"text, not an image"), 400, "not an image")
    told(client.post("/search", data=search_index.images.read(0)[:60]), 400, "damaged image")
    told(client.post("/search", data=bomb()), 400, "too large")
    told(client.post("/search", data=b""), 400, "no body")
    told(client.post("/search", data=b"x" * (MOST_BYTES + 1)), 413, "0.2 MB at most")
    for k in ("0", "101", "-1", "ten", "1e9", ""):
        told(client.post(f"/search?k={k}", data=search_index.images.read(0)), 400, "k is")
    for row in ("20", "9" * 30):
        told(client.get(f"/search?row={row}"), 404, "there is no image")
        told(client.get(f"/images/{row}"), 404, "there is no image")
    told(client.get("/search?row=-1"), 400, "row is")
    for path in ("../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "..", "0/../../x", "-1", "a", "1.png"):
        assert client.get(f"/images/{path}").status_code == 404, path
    assert client.get("/static/page.html").status_code == 404
    assert client.delete("/search").status_code == 405


def test_pages_elsewhere_can_not_reach_it(client):
    # A name of a stranger that resolves to this machine.
    assert client.get("/about", headers={"Host": "evil.example"}).status_code == 400
    for host in ("127.0.0.1:8000", "localhost:8000", "localhost"):
        assert client.get("/about", headers={"Host": host}).status_code == 200
    response = client.get("/")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in response.headers


def test_an_image_that_has_gone(client, search_index):
    path = Path(search_index.summary["images"]["folder"]) / search_index.rows[11]["name"]
    data = path.read_bytes()
    path.unlink()
    try:
        told(client.get("/images/11"), 404, "the file of this image is missing")
        assert client.get("/search?row=11").status_code == 200
    finally:
        path.write_bytes(data)


def test_the_command(search_index, here):
    command = Command(["-u", "-m", "dist_plm.serve", search_index.folder, "--port", "0", "--max_upload_mb", "0.1"])
    try:
        command.until(lambda: "\n" in command.printed.out)
        line = command.printed.out
        assert line.startswith("20 images on http://127.0.0.1:"), line
        url = line.split()[3]
        with urllib.request.urlopen(f"{url}about", timeout=60) as response:
            assert json.load(response)["count"] == 20
        taken = url.rstrip("/").rpartition(":")[2]
        refused(here(serving.main, search_index.folder, "--port", taken), "choose another --port")
        with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)):
            urllib.request.urlopen(f"{url}search", data=b"x" * 300_000, timeout=60)
        command.send(signal.SIGTERM)
        assert command.wait().status == 0
    finally:
        command.kill()


def test_wrong_uses(search_index, tmp_path, here, monkeypatch):
    refused(here(serving.main, tmp_path), "is not an index")
    refused(here(serving.main, search_index.folder, "--port", "70000"), "--port is 70000")
    refused(here(serving.main, search_index.folder, "--max_upload_mb", "0"), "--max_upload_mb")
    refused(here(serving.main, search_index.folder, "--host", "no.such.host.invalid"), "cannot listen on")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(here(serving.main, search_index.folder), "[serve]")


@pytest.fixture
def served(search_index: SearchIndex) -> Iterator[str]:
    server = create_server(create_app(search_index, most_bytes=MOST_BYTES, host="127.0.0.1"), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}/"
    server.close()


def test_in_a_browser(served, search_index, tmp_path, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)

    def tiles(where: str) -> list:
        return browser.find_elements(By.CSS_SELECTOR, f"{where} .tile")

    browser.get(served)
    wait.until(lambda _: len(tiles("#examples")) == 12)
    assert "20 images" in browser.find_element(By.ID, "about").text

    query = tmp_path / "query.png"
    query.write_bytes(search_index.images.read(5))
    browser.find_element(By.ID, "file").send_keys(str(query))
    wait.until(lambda _: len(tiles("#neighbours")) == 12)
    expected = dist_plm.search_images(search_index, [query], k=12)[0]
    shown = [tile.find_element(By.TAG_NAME, "img").get_attribute("src") for tile in tiles("#neighbours")]
    assert shown == [f"{served}images/{each.row}" for each in expected]
    # A name is text, whatever it looks like.
    assert tiles("#neighbours")[0].find_element(By.CLASS_NAME, "name").text == expected[0].label
    assert "<b>" in expected[0].label

    tiles("#neighbours")[3].click()
    wait.until(lambda _: browser.current_url.endswith(f"#row={expected[3].row}"))
    wait.until(lambda _: browser.find_element(By.CSS_SELECTOR, "#query .name").text == expected[3].label)

    for width in (1280, 400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width
    assert browser.get_log("browser") == []

    query.write_text("not an image")
    browser.find_element(By.ID, "file").send_keys(str(query))
    wait.until(lambda _: browser.find_element(By.ID, "status").text == "not an image")
