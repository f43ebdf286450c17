"""Signs indexes: only one made by this account may name the folder whose images are shown.

An index from elsewhere could name any folder of this machine, and `serve` would show its files. `embed` signs the
location of the images with a key that is stored in the account's state folder.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

KEY_BYTES = 32


def signature(place: dict[str, Any]) -> str:
    """HMAC-SHA256 (hex) of an index's `images` by this account's key; empty if no key can be stored."""
    try:
        key = _read() or _make()
    except OSError:
        return ""
    return hmac.new(key, _text(place), hashlib.sha256).hexdigest()


def is_own(place: Any, signed: Any) -> bool:
    """Whether `signed` is this account's signature of `place`."""
    try:
        key = _read()
    except OSError:
        return False
    return bool(key) and hmac.compare_digest(
        hmac.new(key, _text(place), hashlib.sha256).hexdigest().encode(), str(signed).encode()
    )


def _text(place: Any) -> bytes:
    return json.dumps(place, sort_keys=True).encode()


def _path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "dist_plm" / "index_key"


def _read() -> bytes:
    """The key; empty if there is none yet."""
    try:
        key = _path().read_bytes()
    except FileNotFoundError:
        return b""
    return key if len(key) == KEY_BYTES else b""


def _make() -> bytes:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    try:
        os.link(temporary, path)  # of two concurrent processes the first wins
    except OSError:  # it exists, or the file system has no hard links
        if not _read():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return _read()
