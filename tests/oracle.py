"""The method once more, as loops over points in float64 numpy: slow, plain, and sharing no code with the package."""

import numpy as np


def nearest(points, candidates, k, rows):
    """[B, k + 1] rows of candidates: the own row, then the k nearest others by (distance, row)."""
    table = []
    for i, x in enumerate(points):
        others = [(np.sqrt(((x - y) ** 2).sum()), g) for g, y in enumerate(candidates) if g != rows[i]]
        table.append([rows[i]] + [g for _, g in sorted(others)[:k]])
    return np.array(table)


def pca(x, centre, anchor, dim):
    """v [n, D] about the centre and the top `dim` principal directions [D, <= dim] of the points x [n, D]."""
    v = x - {"anchor": anchor, "origin": 0 * anchor, "mean": x.mean(axis=0)}[centre]
    _, sigma, directions = np.linalg.svd(v, full_matrices=False)
    real = sigma > 1e-7 * max(sigma[0], 1e-6)
    return v, directions[:dim][real[:dim]].T


def fits(v, u, threshold, criterion):
    for a in v:
        length, inside = np.linalg.norm(a), np.linalg.norm(u.T @ a)
        if length < 1e-13:
            continue
        if criterion == "energy" and inside**2 / length**2 < threshold:
            return False
        if criterion == "norm" and np.linalg.norm(a - u @ (u.T @ a)) / length > 1 - threshold:
            return False
    return True


def linear_neighbourhoods(points, k, dim, threshold, centre="anchor", criterion="energy", candidates=None, rows=None):
    """Bases as [B, D, M] padded with zeros, members [B, k + 1], indices [B, k + 1]."""
    candidates = points if candidates is None else candidates
    rows = list(range(len(points))) if rows is None else list(rows)
    indices = nearest(points, candidates, k, rows)
    members = np.zeros(indices.shape, dtype=bool)
    bases = np.zeros((*points.shape, dim))
    for i, anchor in enumerate(points):
        x = np.stack([anchor] + [candidates[g] for g in indices[i, 1:]])
        chosen = list(range(dim))
        for j in range(dim, k + 1):
            v, u = pca(x[[*chosen, j]], centre, anchor, dim)
            if fits(v, u, threshold, criterion):
                chosen.append(j)
        members[i, chosen] = True
        _, u = pca(x[chosen], centre, anchor, dim)
        bases[i, :, : u.shape[1]] = u
    return bases, members, indices


def directed_similarity(x, y, u, n_alpha, n_beta):
    """s'(x, y) with the neighbourhood u [D, M] of y."""
    p = np.linalg.norm(u.T @ (x - y))
    o = np.linalg.norm((x - y) - u @ (u.T @ (x - y)))
    return 1 / (1 + o / 2) ** n_alpha * 1 / (1 + p) ** n_beta


def similarity(x, u, y, v, n_alpha=4.0, n_beta=0.5):
    """s(x_i, y_j) [B, G]: the mean over the neighbourhoods u of x and v of y."""
    s = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            forth = directed_similarity(x[i], y[j], v[j], n_alpha, n_beta)
            back = directed_similarity(y[j], x[i], u[i], n_alpha, n_beta)
            s[i, j] = (forth + back) / 2
    return s


def point_loss(z, s, delta=2.0):
    total = 0.0
    for i in range(len(z)):
        for j in range(len(z)):
            if i != j:
                total += (delta * (1 - s[i, j]) - np.linalg.norm(z[i] - z[j])) ** 2
    return total


def proxy_loss(z, rho, s, delta=2.0):
    total = 0.0
    for i in range(len(z)):
        for j in range(len(rho)):
            total += (delta * (1 - s[i, j]) - np.linalg.norm(z[i] - rho[j])) ** 2
    return total


def neighbourhood_loss(u, psi, s):
    """u [B, D, M] orthonormal, psi [P, D, M] unit vectors: the angle between psi_kj and its projection on span u_i."""
    total = 0.0
    for i in range(len(u)):
        for j in range(len(psi)):
            for k in range(psi.shape[2]):
                vector = psi[j, :, k]
                shadow = u[i] @ (u[i].T @ vector)
                length = np.linalg.norm(shadow)
                cosine = vector @ shadow / length if length > 0 else 0.0
                total += (s[i, j] - cosine) ** 2
    return total
