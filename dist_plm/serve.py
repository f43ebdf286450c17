"""`python -m dist_plm.serve`: a web page and HTTP API for searching an index by image."""

import argparse
import importlib.util
import signal
import socket
import sys
from typing import NoReturn

from dist_plm.cli import OneLineParser, add_code_option, add_threads, location, run_command, weights_path
from dist_plm.errors import UserError

# Idle connections are closed; open ones don't block new ones.
BOUNDS = {"threads": 4, "connection_limit": 500, "channel_timeout": 20, "cleanup_interval": 5}


def main() -> int:
    """Open the index and serve it until SIGINT or SIGTERM."""
    options = _parse()
    missing = [name for name in ("flask", "waitress") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serving needs {' and '.join(missing)}: pip install -e '.[serve]'")

    from waitress import create_server

    from dist_plm.distributed.process import limit_threads
    from dist_plm.search_index.search_index import SearchIndex
    from dist_plm.search_index.web import create_app

    limit_threads(options.threads)
    search_index = SearchIndex(options.index, images=options.images, backbone=options.backbone)
    _ = search_index.images  # report missing images at the start
    most_bytes = int(options.max_upload_mb * 1e6)
    listening = _listen(options.host, options.port)
    address, port = listening.getsockname()[:2]
    # By its address: localhost has many spellings (127.1, 0x7f000001, ::1).
    app = create_app(search_index, most_bytes=most_bytes, host=address)
    server = create_server(app, sockets=[listening], max_request_body_size=most_bytes + 1, ident=None, **BOUNDS)
    signal.signal(signal.SIGTERM, _leave)
    name = f"[{options.host}]" if ":" in options.host else options.host
    print(f"{len(search_index):,} images on http://{name}:{port}/  (Ctrl-C ends)", flush=True)
    server.run()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host} port {port} ({reason}): choose another --port") from error


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.serve", description=__doc__)
    parser.add_argument("index", type=weights_path, metavar="INDEX_DIR", help="made by python -m dist_plm.embed")
    parser.add_argument(
        "--images", type=location, default="", help="folder or data set of the images, where the index is not your own"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address; another one shows your images to all")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    parser.add_argument("--max_upload_mb", type=float, default=16.0, help="largest upload, 10^6 bytes")
    add_threads(parser, "all cores")
    add_code_option(parser)
    options = parser.parse_args()
    if not 0 <= options.port <= 65535:
        parser.error(f"--port is {options.port}: 0 to 65535")
    if not 0 < options.max_upload_mb <= 1000:
        parser.error(f"--max_upload_mb is {options.max_upload_mb:g}: above 0, at most 1000")
    return options


if __name__ == "__main__":
    run_command(main)
