"""FAISS that can't be imported, for each reason that there is: what needs it says so, and the rest does without."""

import ast
import builtins
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dist_plm
from dist_plm.config import IndexConfig
from dist_plm.errors import UserError
from dist_plm.index import faiss_library, ivf
from dist_plm.index.clustering import kmeans_labels
from dist_plm.index.flat import describe, nearest
from dist_plm.index.global_index import GlobalIndex
from dist_plm.index.placement import read_factory
from dist_plm.search_index.writing import write_vectors

FAULTS = [
    (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "not installed"),
    (ImportError("libfaiss.so: undefined symbol", name="faiss.swigfaiss"), "undefined symbol"),
    (RuntimeError("faiss-gpu: nvidia-cublas-cu12 is missing\npip install it"), "nvidia-cublas-cu12 is missing"),
    (OSError("libcudart.so.12: cannot open shared object file"), "libcudart.so.12"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_without_faiss(fault: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
            lambda: write_vectors(tmp_path, 0, [points], points.shape, print),
        ):
            with pytest.raises(UserError, match=r"needs faiss, which is not") as raised:
                needs()
            assert reason in str(raised.value)
    finally:
        faiss_library._imported.cache_clear()


def test_nothing_else_imports_faiss():
    root = Path(dist_plm.__file__).parent
    importing = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if "faiss" in [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
    }
    assert importing == {"index/faiss_library.py"}


def test_more_cells_than_a_gpu_searches_are_refused():
    index = GlobalIndex.__new__(GlobalIndex)
    index._index, index._placement = ivf.Ivf.__new__(ivf.Ivf), SimpleNamespace(cells=8_192)
    index._config = IndexConfig(factory="IVF8192,Flat", nprobe_max=4_096)
    index._rows = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(UserError, match=r"nprobe_max is 4096: faiss searches 2048 cells .* lower it"):
        index.guard(0, 10)


def test_a_factory_without_a_form_on_a_gpu_is_refused(monkeypatch):
    def refuse(resources, device, index):
        raise RuntimeError("Error in cloneIndex at GpuCloner.cpp:282: Error: 'false' failed: not implemented on GPU")

    monkeypatch.setattr(ivf, "gpu_resources", lambda: None)
    with pytest.raises(UserError, match=r"has no form on a GPU in this faiss \(not implemented on GPU\): use IVF with"):
        ivf._on_gpu(SimpleNamespace(index_cpu_to_gpu=refuse), None, torch.device("cuda", 1))
