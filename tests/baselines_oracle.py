"""The losses of the baselines as loops over points in float64 numpy: plain, and sharing no code with the package."""

import numpy as np


def contextualised_similarity(t, ids, k, sigma):
    n = len(t)
    pairwise = np.array([[np.exp(-np.sum((a - b) ** 2) / sigma) for b in t] for a in t])
    ranking = []
    for i in range(n):
        keys = [(-1.0 if ids[i] == ids[j] else -pairwise[i, j], j) for j in range(n)]
        ranking.append([j for _, j in sorted(keys)])
    reciprocal = [{j for j in ranking[i][:k] if i in ranking[j][:k]} for i in range(n)]
    overlap = np.zeros((n, n))
    for i in range(n):
        for j in reciprocal[i]:
            overlap[i, j] = len(reciprocal[i] & reciprocal[j]) / len(reciprocal[i])
    expanded = np.array([sum(overlap[h] for h in ranking[i][: k // 2]) / (k // 2) for i in range(n)])
    return np.array(
        [[(pairwise[i, j] + (expanded[i, j] + expanded[j, i]) / 2) / 2 for j in range(n)] for i in range(n)]
    )


def relative_distances(s):
    d = np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in s] for a in s])
    return d / d.mean(axis=1)[:, None]


def stml_loss(f, g, t, ids, k, sigma, delta):
    n, w = len(f), contextualised_similarity(t, ids, k, sigma)
    contrastive = 0.0
    for s in (f, g):
        d = relative_distances(s)
        for i in range(n):
            for j in range(n):
                if i != j:
                    contrastive += w[i, j] * d[i, j] ** 2 + (1 - w[i, j]) * max(0.0, delta - d[i, j]) ** 2
    divergence = 0.0
    for row_g, row_f in zip(relative_distances(g), relative_distances(f), strict=True):
        p, q = (np.exp(-row) / np.exp(-row).sum() for row in (row_g, row_f))
        divergence += sum(p[j] * (np.log(p[j]) - np.log(q[j])) for j in range(n))
    return contrastive / 2 / (n * (n - 1)) + divergence / n


def nearest(x, k):
    d = [[np.sqrt(np.sum((a - b) ** 2)) for b in x] for a in x]
    return [[j for _, j in sorted((d[i][j], j) for j in range(len(x)) if j != i)][:k] for i in range(len(x))]


def contrast(z, positives, temperature):
    total = 0.0
    for i, found in enumerate(positives):
        others = sum(np.exp(z[i] @ z[j] / temperature) for j in range(len(z)) if j != i)
        total -= sum(np.log(np.exp(z[i] @ z[j] / temperature) / others) for j in found) / len(found)
    return total / len(z)


def proxy_anchor_loss(z, labels, proxies, margin, alpha_positive, alpha_negative):
    present = set(labels)
    positive, negative = 0.0, 0.0
    for c, p in enumerate(proxies):
        p = p / np.linalg.norm(p)
        pull = sum(np.exp(-alpha_positive * (x @ p - margin)) for x, y in zip(z, labels, strict=True) if y == c)
        push = sum(np.exp(alpha_negative * (x @ p + margin)) for x, y in zip(z, labels, strict=True) if y != c)
        positive += np.log(1 + pull)
        negative += np.log(1 + push)
    return positive / len(present) + negative / len(proxies)


def mlp(rows, weights, keep):
    """weights: [(W, scale, shift)] of the hidden layers, then (W, bias); keep: dropout factors of each, or None."""
    for (w, scale, shift), factor in zip(weights[:-1], keep, strict=True):
        rows = np.array([w @ row for row in rows])
        for unit in range(rows.shape[1]):
            column = rows[:, unit]
            rows[:, unit] = (column - column.mean()) / np.sqrt(column.var() + 1e-5) * scale[unit] + shift[unit]
        rows = np.maximum(rows, 0) * (1 if factor is None else factor)
    w, bias = weights[-1]
    return np.array([w @ row + bias for row in rows])


def cross_entropy(scores, labels):
    return -np.mean([row[y] - np.log(np.exp(row).sum()) for row, y in zip(scores, labels, strict=True)])


def softmax(scores):
    return np.array([np.exp(row) / np.exp(row).sum() for row in scores])


def dada_terms(x, mixed, p, y, domain, category, keep):
    """L_U, L_C and L_d of discriminators given as for `mlp`."""
    n = len(x)
    scores = mlp(np.concatenate([x, mixed, p]), domain, [None] * (len(domain) - 1))
    l_u = sum(cross_entropy(scores[d * n : (d + 1) * n], [d] * n) for d in range(3))
    scores = mlp(np.concatenate([x, mixed]), category, keep)
    of_x, of_mixed = scores[:n], scores[n:]
    norms = [np.sqrt(np.maximum(np.linalg.eigvalsh(s.T @ s), 0)).sum() for s in (softmax(of_x), softmax(of_mixed))]
    return l_u, 2 * cross_entropy(of_x, y), (norms[0] - norms[1]) / (2 * n)
