"""`select_batched` as one Triton kernel: one program per point, all rounds in registers, no synchronisation.

The eigendecomposition is Jacobi's in parallel order. With N a power of two, round r = 1 ... N - 1 of a sweep rotates
the N / 2 disjoint pairs (i, i xor r): each pair once a sweep, all rotations of a round at once as products with one
orthogonal matrix J. Brent and Luk, The solution of singular-value and symmetric eigenvalue problems on multiprocessor
arrays, SIAM J. Sci. Stat. Comput. 1985.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST, MOST = 16, 32  # rows: of a matrix product of Triton's; of what registers hold, but for 400 bytes
SWEEPS = 10  # at most; convergence is quadratic, and float32 stands still after four to six
ALL = 1e30  # times |v|^2, an upper bound


def select(gram: Tensor, noise: Tensor, *, dim: int, centre: str, allowed: float) -> tuple[Tensor, Tensor, Tensor]:
    """members [B, k + 1], eigenvalues [B, M] and vectors [B, k + 1, M] of `select_batched`, in float32."""
    count, rows = gram.shape[:2]
    padded = max(LEAST, triton.next_power_of_2(rows))
    members = torch.empty(count, rows, dtype=torch.int8, device=gram.device)
    eigenvalues, vectors = gram.new_empty(count, dim), gram.new_empty(count, rows, dim)
    _select[(count,)](
        *(gram.contiguous(), noise.contiguous(), members, eigenvalues, vectors),
        *(rows, ALL if allowed >= 1 else allowed, torch.finfo(gram.dtype).eps * rows),
        N=padded,
        DIM=dim,
        MEAN=centre == "mean",
        SWEEPS=SWEEPS,
        num_warps=1 if padded == LEAST else 4,
    )
    return members.bool(), eigenvalues, vectors


@triton.jit
def _select(
    gram_at, noise_at, members_at, values_at, vectors_at, rows, allowed, relative,
    N: tl.constexpr, DIM: tl.constexpr, MEAN: tl.constexpr, SWEEPS: tl.constexpr,
):  # fmt: skip
    """One point: rounds of `_fits`, then its eigenvectors in descending order."""
    point = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, N)
    row, column = index[:, None], index[None, :]
    inside = (row < rows) & (column < rows)
    gram = tl.load(gram_at + point * rows * rows + row * rows + column, mask=inside, other=0.0)
    noise = tl.load(noise_at + point)
    members = (index < DIM).to(tl.int32)
    end = 1  # the members lie in the first `end` rows, a power of two: beyond, no pair is to be rotated
    while end < DIM:
        end *= 2
    for candidate in range(DIM, rows):
        if candidate >= end:
            end *= 2
        trial = tl.where(index == candidate, 1, members)
        norms, values, vectors, floor = _pca(gram, trial, noise, relative, end, N, MEAN, SWEEPS)
        rest = tl.sum(vectors * vectors * tl.where(_rank(values, N) < DIM, 0.0, values)[None, :], 1)
        fails = (norms > floor) & (rest > allowed * norms)
        members = tl.where(tl.sum(fails.to(tl.int32), 0) == 0, trial, members)
    norms, values, vectors, floor = _pca(gram, members, noise, relative, end, N, MEAN, SWEEPS)
    rank = _rank(values, N)
    tl.store(members_at + point * rows + index, members.to(tl.int8), mask=index < rows)
    tl.store(values_at + point * DIM + rank, values, mask=rank < DIM)
    place = vectors_at + point * rows * DIM + row * DIM + rank[None, :]
    tl.store(place, vectors, mask=(row < rows) & (rank[None, :] < DIM))


@triton.jit
def _pca(
    gram, members, noise, relative, end, N: tl.constexpr, MEAN: tl.constexpr, SWEEPS: tl.constexpr
):  # fmt: skip
    """Norms [N], eigenvalues [N] in no order, eigenvectors [N, N] in columns, and the floor, as `_pca` of torch."""
    mask = members.to(tl.float32)
    index = tl.arange(0, N)
    diagonal = index[:, None] == index[None, :]
    if MEAN:
        count = tl.sum(mask, 0)
        mean = tl.sum(gram * mask[None, :], 1) / count
        across = tl.sum(gram * mask[:, None], 0) / count  # the same, along the other axis
        gram = gram - mean[:, None] - across[None, :] + tl.sum(mean * mask, 0) / count
    matrix = gram * mask[:, None] * mask[None, :]
    norms = tl.sum(tl.where(diagonal, matrix, 0.0), 1)
    vectors = diagonal.to(tl.float32)
    whole, sweep = tl.sum(tl.sum(matrix * matrix, 1), 0), 0
    while (sweep < SWEEPS) & (_beside(matrix, N) > relative * relative * whole):
        for distance in range(1, end):
            matrix, vectors = _rotate(matrix, vectors, distance, N)
        sweep += 1
    values = tl.sum(tl.where(diagonal, matrix, 0.0), 0)
    floor = tl.maximum(noise, relative * tl.max(values, 0))
    return norms, tl.where(values <= floor, 0.0, values), vectors, floor


@triton.jit
def _rotate(matrix, vectors, distance, N: tl.constexpr):
    """A <- J'AJ and V <- VJ, where J zeroes a_pq of all pairs q = p xor distance (Golub and Van Loan, 8.5.2)."""
    index = tl.arange(0, N)
    row, column = index[:, None], index[None, :]
    diagonal, partner = row == column, (row ^ distance) == column
    mine = tl.sum(tl.where(diagonal, matrix, 0.0), 1)
    theirs = tl.sum(tl.where(partner, tl.sum(tl.where(diagonal, matrix, 0.0), 0)[None, :], 0.0), 1)
    # Both sides of the diagonal: a pair's two rows must agree to the bit, or J would not be orthogonal.
    between = 0.5 * (tl.sum(tl.where(partner, matrix, 0.0), 1) + tl.sum(tl.where(partner, matrix, 0.0), 0))
    tau = (theirs - mine) / (2.0 * tl.where(between == 0.0, 1.0, between))
    sign = tl.where(tau == 0.0, tl.where(index < (index ^ distance), 1.0, -1.0), tl.where(tau > 0.0, 1.0, -1.0))
    tangent = tl.where(between == 0.0, 0.0, sign / (tl.abs(tau) + tl.sqrt(1.0 + tau * tau)))
    cosine = 1.0 / tl.sqrt(1.0 + tangent * tangent)
    sine = tangent * cosine
    turn = tl.where(diagonal, cosine[:, None], tl.where(partner, sine[:, None], 0.0))
    turned = tl.where(diagonal, cosine[None, :], tl.where(partner, sine[None, :], 0.0))  # J'
    matrix = tl.dot(turned, tl.dot(matrix, turn, input_precision="ieee"), input_precision="ieee")
    return matrix, tl.dot(vectors, turn, input_precision="ieee")


@triton.jit
def _beside(matrix, N: tl.constexpr):
    """Sum of squares of the off-diagonal entries."""
    index = tl.arange(0, N)
    rest = tl.where(index[:, None] == index[None, :], 0.0, matrix)
    return tl.sum(tl.sum(rest * rest, 1), 0)


@triton.jit
def _rank(values, N: tl.constexpr):
    """Place of each value in descending order; equal ones in the order of their rows [N]."""
    index = tl.arange(0, N)
    mine, theirs = values[:, None], values[None, :]
    before = (theirs > mine) | ((theirs == mine) & (index[None, :] < index[:, None]))
    return tl.sum(before.to(tl.int32), 1)
