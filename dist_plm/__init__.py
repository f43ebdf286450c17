"""Piecewise-linear manifolds for deep metric learning, on any number of ranks.

Five names for notebooks, imported on first use: importing `dist_plm` alone takes no torch and no time.

    load_encoder         a trained network from a run directory or an export
    embed_images         images -> embeddings
    search_images        images -> their neighbours in an index
    evaluate_embeddings  embeddings and labels -> recall@K, MAP@R, NMI
    manifold             neighbourhoods, similarity and losses of the method
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["embed_images", "evaluate_embeddings", "load_encoder", "manifold", "search_images"]

if TYPE_CHECKING:
    from dist_plm import manifold
    from dist_plm.api import embed_images, evaluate_embeddings, load_encoder, search_images


def __getattr__(name: str) -> Any:
    if name == "manifold":
        return importlib.import_module("dist_plm.manifold")
    if name in __all__:
        return getattr(importlib.import_module("dist_plm.api"), name)
    raise AttributeError(f"module 'dist_plm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
