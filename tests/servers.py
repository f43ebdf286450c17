"""Stores as people have them, on this machine: nginx, and a server that speaks S3."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import free_port
from tests.commands import PATIENCE_SECONDS

CONFIG = """
daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;
events {{}}
http {{
  access_log {here}/access.log;
  client_body_temp_path {here}/t; proxy_temp_path {here}/t; fastcgi_temp_path {here}/t; uwsgi_temp_path {here}/t;
  scgi_temp_path {here}/t;
  split_clients "$request_id" $unlucky {{ {failing}% 1; * 0; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ if ($unlucky) {{ return 503; }} root {root}; }}
  }}
}}
"""


class Nginx:
    """nginx over the files below `root`, of whose answers `failing` percent are 503."""

    def __init__(self, here: Path, root: Path, failing: float = 0.0) -> None:
        here.mkdir()
        self._here = here
        self._port = free_port()
        text = CONFIG.format(here=here, root=root, port=self._port, failing=failing or "0.01")
        (here / "nginx.conf").write_text(text)
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        line = [_binary(), "-p", str(self._here), "-c", str(self._here / "nginx.conf"), "-e", str(self._here / "log")]
        self._process = subprocess.Popen(line)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.02)
        self.kill()
        pytest.fail(f"nginx does not listen: {[path.read_text() for path in self._here.glob('*log')]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self, status: int) -> int:
        """How often it answered so."""
        return (self._here / "access.log").read_text().count(f'" {status} ')


def _binary() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return found or pytest.skip("nginx is not installed: apt-get install nginx-light")


@contextmanager
def nginx(here: Path, root: Path, failing: float = 0.0) -> Iterator[Nginx]:
    """A server that is gone afterwards."""
    server = Nginx(here, root, failing)
    try:
        yield server
    finally:
        server.kill()


def damage(folder: Path, id: int) -> str:
    """One byte of an image of the train split becomes another; the name of its shard."""
    shard, offset, _ = np.load(folder / "train.offsets.npy")[id]
    path = folder / f"train-{shard:06d}.tar"
    text = bytearray(path.read_bytes())
    text[offset + 100] ^= 1
    path.write_bytes(text)
    return path.name


@contextmanager
def s3(folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The files of a folder in a bucket of an S3 server; the URL of them. Its address is in the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        for path in folder.iterdir():
            client.upload_file(str(path), bucket, f"sets/{path.name}")
        yield f"s3://{bucket}/sets"
    finally:
        server.stop()
