"""The selection of X_i: the Triton kernel against the batched torch form, under Triton's interpreter without a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dist_plm.manifold import selection
from dist_plm.manifold.selection import Selection, select_batched
from tests.commands import ROOT

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# rows, m, centre, allowed
GENERAL = [
    (9, 3, "anchor", 0.1),
    (7, 3, "mean", 0.1),
    (6, 2, "origin", 0.1),
    (6, 1, "anchor", 0.3),
    (18, 14, "mean", 3e-4),
]  # more than 16 rows: padded to 32, of one point, which takes the interpreter 5 s
SPECIAL = [(6, 3, "anchor", 0.1), (5, 2, "anchor", 1.0)]  # duplicates and lines, nothing asked
POINTS = 2  # of a case: the interpreter takes a second for one
NOISE = (64 * torch.finfo(torch.float32).eps) ** 2


def vectors(seed: int, count: int, rows: int, dim: int, centre: str) -> torch.Tensor:
    """v_a [B, rows, dim] of points near planes of 3 dimensions, nearest first: some candidates fit, others don't."""
    random = torch.Generator().manual_seed(seed)
    plane = torch.randn(count, 3, dim, generator=random)
    flat = torch.randn(count, rows, 3, generator=random) @ plane
    off = torch.rand(count, rows, 1, generator=random).pow(3) * torch.randn(count, rows, dim, generator=random)
    v = 0.1 * (flat + 2 * off)
    if centre == "anchor":
        v[:, 0] = 0
    return v.gather(1, v.norm(dim=2).argsort(1)[:, :, None].expand_as(v))


def cases() -> list[torch.Tensor]:
    """Gram matrices of GENERAL, then of SPECIAL."""
    counts = [POINTS if rows <= 16 else 1 for rows, *_ in (*GENERAL, *SPECIAL)]
    v = [
        vectors(rows, count, rows, 24, centre)
        for count, (rows, _, centre, _) in zip(counts, (*GENERAL, *SPECIAL), strict=True)
    ]
    v[-2][0] = 0
    v[-2][1] = torch.linspace(0, 1, 6)[:, None] * v[-2][1, -1]
    return [each @ each.mT for each in v]


def by_kernel(grams: list[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    from dist_plm.manifold import selection_kernel

    found = []
    for gram, (_, dim, centre, allowed) in zip(grams, (*GENERAL, *SPECIAL), strict=True):
        noise = torch.full((len(gram), 1), NOISE, device=DEVICE)
        chosen = selection_kernel.select(gram.to(DEVICE), noise, dim=dim, centre=centre, allowed=allowed)
        found.append(tuple(each.cpu() for each in chosen))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[Selection]:
    """What the kernel makes of `cases`. Whether Triton interprets is decided as it is imported: in a process apart."""
    if DEVICE == "cuda":
        return [Selection(*each) for each in by_kernel(cases())]
    folder = tmp_path_factory.mktemp("kernel")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, __file__, folder], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [Selection(*each) for each in torch.load(folder / "found.pt")]


def reference(number: int) -> tuple[torch.Tensor, Selection]:
    gram, (_, dim, centre, allowed) = cases()[number], (*GENERAL, *SPECIAL)[number]
    noise = torch.full((len(gram), 1), NOISE)
    return gram, select_batched(gram, noise, dim=dim, centre=centre, allowed=allowed)


def projector(gram, found):
    """A Lambda A' of the top m: what a basis spans, whatever the signs, in units of the largest |v|^2."""
    largest = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    return (found.vectors * found.eigenvalues[:, None]) @ found.vectors.mT / largest


@pytest.mark.parametrize("number", range(len(GENERAL)))
def test_the_kernel_is_the_reference(found, number):
    (rows, dim, _, _), (gram, expected), ours = GENERAL[number], reference(number), found[number]
    assert torch.equal(ours.members, expected.members)
    joined = expected.members[:, dim:].float().mean()
    assert 0 < joined < 1, "the case decides nothing"
    largest = expected.eigenvalues[:, :1]
    torch.testing.assert_close(ours.eigenvalues / largest, expected.eigenvalues / largest, atol=1e-5, rtol=0)
    torch.testing.assert_close(projector(gram, ours), projector(gram, expected), atol=1e-5, rtol=0)
    identity = torch.eye(dim).expand(len(gram), dim, dim)
    torch.testing.assert_close(ours.vectors.mT @ ours.vectors, identity, atol=1e-5, rtol=0)
    assert ours.vectors.shape == (len(gram), rows, dim)


def test_the_kernel_on_duplicates_and_lines(found):
    """Ranks of 0 and 1 below m = 3: eigenvalues that are not told from 0 are 0, and nothing is divided by them."""
    _, expected = reference(len(GENERAL))
    ours = found[len(GENERAL)]
    assert torch.equal(ours.members, expected.members) and ours.members[:2].all()
    assert torch.equal(ours.eigenvalues == 0, expected.eigenvalues == 0)
    assert (ours.eigenvalues > 0).sum(1)[:2].tolist() == [0, 1] and ours.vectors.isfinite().all()


def test_nothing_asked_takes_all(found):
    assert found[-1].members.all() and reference(-1)[1].members.all()


@pytest.mark.parametrize("fault", [None, "fatal error: Python.h: No such file or directory", "no kernel image"])
def test_one_launch_decides_on_the_kernel(fault, monkeypatch):
    """Whatever it lacks shows there, with a warning, and not in the first step."""
    launched = []

    def select(gram, noise, **options):
        launched.append(gram.shape)
        if fault:
            raise RuntimeError(f"gcc failed\n{fault}")

    module = SimpleNamespace(select=select)
    monkeypatch.setattr(selection, "import_module", lambda name: module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    decide = selection._kernel.__wrapped__
    if fault:
        with pytest.warns(UserWarning, match=f"without the Triton kernel, more slowly: {fault}"):
            assert decide(torch.device("cpu")) is None
    else:
        assert decide(torch.device("cpu")) is module
    assert launched == [(1, 4, 4)]


def test_the_kernel_compiles_for_a_gpu():
    """To PTX for an H100 or H200, which takes no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from dist_plm.manifold import selection_kernel

    floats, sizes = ("gram_at", "noise_at", "values_at", "vectors_at"), {"N": 16, "DIM": 3, "MEAN": True, "SWEEPS": 10}
    types = dict.fromkeys(floats, "*fp32") | {"members_at": "*i8", "rows": "i32", "allowed": "fp32", "relative": "fp32"}
    kernel = selection_kernel._select
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=sizes)
    assert ".entry _select" in compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["ptx"]


if __name__ == "__main__":
    torch.save(by_kernel(cases()), Path(sys.argv[1], "found.pt"))
