"""The only import of FAISS, optional, with the reason of a failure.

faiss-gpu loads CUDA 12 libraries from separate wheels when it is imported. If one is missing it raises a RuntimeError,
also on machines without a GPU; a broken library raises an OSError, a missing package an ImportError.
"""

from functools import cache
from typing import Any

from dist_plm.errors import UserError


@cache
def _imported() -> tuple[Any, str]:
    """The module, or None and why it can't be imported."""
    try:
        import faiss
    except ImportError as error:
        return None, "not installed" if error.name == "faiss" else f"not importable: {error}"
    except (RuntimeError, OSError) as error:
        return None, f"not importable: {str(error).splitlines()[0]}"
    return faiss, ""


def find_faiss() -> Any:
    """The module `faiss`, or None if it can't be imported."""
    return _imported()[0]


def missing_faiss() -> str:
    """Why `find_faiss` returns None, in a few words; empty if it doesn't."""
    return _imported()[1]


def require_faiss(purpose: str, otherwise: str = "") -> Any:
    """The module `faiss`.

    Args:
        purpose: The feature that needs it, the beginning of the message.
        otherwise: The alternative, the end of the message.

    Raises:
        UserError: it can't be imported.
    """
    module, reason = _imported()
    if module is None:
        raise UserError(
            f"{purpose} needs faiss, which is {reason}: pip install faiss-cpu (or faiss-gpu, never both){otherwise}"
        )
    return module


def reason_of(error: RuntimeError) -> str:
    """The reason in an exception of FAISS, without the source file and condition that it begins with."""
    return str(error).rpartition(": ")[2].splitlines()[0]
