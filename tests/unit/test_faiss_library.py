"""FAISS that can't be imported, for each reason that there is: what needs it says so, and the rest does without."""

import builtins

import numpy as np
import pytest
import torch

from dist_plm.errors import UserError
from dist_plm.index import faiss_library
from dist_plm.index.clustering import kmeans_labels
from dist_plm.index.flat import describe, nearest
from dist_plm.index.placement import read_factory

FAULTS = [
    (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "not installed"),
    (ImportError("libfaiss.so: undefined symbol", name="faiss.swigfaiss"), "undefined symbol"),
    (RuntimeError("faiss-gpu: nvidia-cublas-cu12 is missing\npip install it"), "nvidia-cublas-cu12 is missing"),
    (OSError("libcudart.so.12: cannot open shared object file"), "libcudart.so.12"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_without_faiss(fault: Exception, reason: str, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def broken(name: str, *arguments: object, **options: object):
        if name == "faiss":
            raise fault
        return real(name, *arguments, **options)

    faiss_library._imported.cache_clear()
    monkeypatch.setattr(builtins, "__import__", broken)
    try:
        points = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
        ids, _ = nearest(points, points, 1)
        assert ids[:, 0].tolist() == list(range(40))
        assert reason in describe("auto", torch.device("cpu"))
        assert len(set(kmeans_labels(points, 4, seed=0))) == 4
        for needs in (
            lambda: nearest(points, points, 1, backend="faiss"),
            lambda: read_factory("IVF4,Flat", 40, 6),
        ):
            with pytest.raises(UserError, match=r"needs faiss, which is not") as raised:
                needs()
            assert reason in str(raised.value)
    finally:
        faiss_library._imported.cache_clear()
