"""Faults made on purpose, one changed piece of text each, and the tests that have to notice: the table of
tests/mutation.py."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old`, which stands once in dist_plm/`file`, becomes `new`; one of the tests (below tests/) must then fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    """A mutant of `file` for each change (old, new), with the same tests, separated by spaces."""
    return [Mutant(file, old, new, tuple(tests.split())) for old, new in changes]


# The momentum encoder's average is taken after the optimiser's step.
STEP = """        with part("optimiser"), self.world.waiting("the optimiser's step"):
            self.strategy.step(torch.maximum(skip, self.strategy.overflow.to(skip)))
"""
AVERAGE = """        with part("ema"):
            self.teacher.update(self.student, self.strategy.local)
"""

MUTANTS = [
    *of(
        "manifold/basis.py", "unit/test_neighbourhoods.py unit/test_losses.py",
        ("for _ in range(2):", "for _ in range(1):"),
        ("length.masked_fill(length == 0, 1)", "length"),
    ),
    *of(
        "manifold/distance.py", "unit/test_distance.py unit/test_losses.py unit/test_similarity.py",
        (".masked_fill_(d == 0, 0)", ""),
        ("w.sum(0)[:, None] * y, w.mT, x, alpha=-1", "w.sum(0)[:, None] * y, w.mT, x, alpha=1"),
        ('compute_mode="donot_use_mm_for_euclid_dist"', 'compute_mode="use_mm_for_euclid_dist"'),
        ("vanishing = squared <= 0", "vanishing = squared < 0"),
    ),
    *of(
        "manifold/similarity.py", "unit/test_distance.py unit/test_similarity.py",
        ("(1 + o / 2) ** -n_alpha", "(1 + o) ** -n_alpha"),
        ("(1 + p) ** -n_beta", "(1 + p / 2) ** -n_beta"),
        ("squared = d.square() - p.square()", "squared = d.square() + p.square()"),
        ("return (s_prime + s_prime.mT) / 2", "return s_prime"),
        ("along(y, x, u).mT, n_alpha", "along(x, y, v), n_alpha"),
        ("rounding = 4 *", "rounding = 0 *"),
    ),
    *of(
        "manifold/losses.py", "unit/test_losses.py",
        ("residual.masked_fill(is_self, 0)", "residual"),
        ("distance(z, columns)", "distance(z, columns).detach()"),
        ("basis.detach().unbind(dim=2)", "basis.unbind(dim=2)"),
        ("root(squared)).square().sum()", "squared).square().sum()"),
        ("(delta * (1 - similarity) - distance(z, proxies))", "(delta - similarity - distance(z, proxies))"),
    ),
    *of(
        "manifold/selection.py", "unit/test_distance.py unit/test_neighbourhoods.py unit/test_selection.py",
        ("members[:, :dim] = True", "members[:, : dim - 1] = True"),
        ("for j in range(dim, 0 if", "for j in range(dim + 1, 0 if"),
        ("(rest <= allowed * pca.norms)", "(rest < allowed * pca.norms)"),
        ("(rest <= allowed * pca.norms)).all(dim=1)", "(rest <= allowed * pca.norms)).any(dim=1)"),
        ("eigenvalues.masked_fill(eigenvalues <= floor, 0)", "eigenvalues"),
        ("gram = gram - mean - mean.mT +", "gram = gram - mean - mean.mT -"),
    ),
    *of(
        "manifold/neighbourhoods.py", "unit/test_neighbourhoods.py",
        ("(1 - threshold) ** 2", "(1 - threshold)"),
        ("d.masked_fill(is_self, torch.inf)", "d"),
        ("sort(dim=1, stable=True).indices", "sort(dim=1, stable=True, descending=True).indices"),
        ('v = x if centre == "origin" else', 'v = x if centre == "anchor" else'),
    ),
    *of(
        "manifold/membership.py", "unit/test_membership.py",
        ("holds[:, rows].mT.float()) / 2", "holds[rows].float()) / 2"),
        (".indices[:, :k]", ".indices[:, : k - 1]"),
    ),
    *of(
        "methods/plm.py", "unit/test_gradients.py unit/test_baseline_loop.py distributed/test_exact_gradients.py",
        ("weights, z_all = self.config.loss, self.world.gather_rows(points.student, points.shares)",
         "weights, z_all = self.config.loss, self.world.gather_rows(points.student, points.shares).detach()"),
        ("pairs = len(z_all) * (len(z_all) - 1) *", "pairs = len(z_all) * len(z_all) *"),
        ("neighbourhood / (pairs * self.config.manifold.dim)", "neighbourhood / pairs"),
        ("set_grad_enabled(self.config.proxies.similarity_gradient)", "set_grad_enabled(True)"),
        ("pieces = batch_pieces(x, x, rows - rows[0], config)", "pieces = batch_pieces(x, x, rows, config)"),
    ),
    *of(
        "methods/contrastive.py", "unit/test_gradients.py unit/test_contrast.py distributed/test_exact_gradients.py",
        ("self_columns - view + (view + 1) % points.views", "self_columns - view + view % points.views"),
        ('self_columns[:, None], float("-inf")', "self_columns[:, None], 0.0"),
    ),
    *of(
        "methods/contrastive.py", "unit/test_contrast.py distributed/test_exact_gradients.py",
        ("k, rows)[:, 1:]", "k, rows)[:, :-1]"),
        ("gather(1, near).mean(dim=1)", "gather(1, near).sum(dim=1)"),
    ),
    *of(
        "methods/proxy_anchor.py", "unit/test_proxy_anchor.py",
        ("(cosine - margin), positive) / present", "(cosine - margin), positive) / count"),
        ("alpha_negative * (cosine + margin)", "alpha_negative * (cosine - margin)"),
    ),
    *of(
        "methods/stml.py", "unit/test_stml.py",
        ("-d_g.detach()", "-d_g"),
        ("functional.relu(delta - d).square()", "(delta - d).square()"),
        ("near * near.T", "near"),
    ),
    *of(
        "methods/dada.py", "unit/test_dada.py distributed/test_baseline_gradients.py",
        ("(norm_x - norm_mixed)", "(norm_x + norm_mixed)"),
        ("- (1 - r) * domain", "+ (1 - r) * domain"),
        ("draws, points.sound)", "draws, torch.tensor(True))"),
    ),
    *of(
        "data/plan.py", "unit/test_plan.py unit/test_class_plan.py",
        ("_generator(seed, epoch, 2)", "_generator(seed, 0, 2)"),
        ("_generator(seed, number, 1)", "_generator(seed, 0, 1)"),
        ("np.roll(order, -part * steps * batch.images)", "order"),
        ("held.update(group)", "held.update(group[:1])"),
        ("if taken[seed] or made == count:", "if made == count:"),
        ("within % count[classes, None]", "0 * within"),
        ("shares.rows(rank)]", "shares.rows(0)]"),
    ),
    *of(
        "index/ranking.py", "unit/test_retrieval.py unit/test_index.py",
        ("keys[rows, exclude[rows] - low] = LAST", "keys[rows, exclude[rows] - low] += 0"),
        ("best = torch.cat([best, _smallest(keys, k)], 1)", "best = _smallest(keys, k)"),
        ("(1.4 * 2**25)", "(1.4 * 2**10)"),
        ("largest=False", "largest=True"),
    ),
    *of(
        "evaluation/retrieval.py", "unit/test_retrieval.py",
        ("count - (gallery_labels[query_rows] == query_labels).long()", "count"),
        ("masked_fill(query_labels < 0, 0)", "clone()"),
        ("(rank <= positives[:, None])", "(rank <= positives[:, None] + 1)"),
        ("relevant[:, :k].any(1)", "relevant[:, : k + 1].any(1)"),
        ("count / self.queries for", "count / (self.queries + self.dropped) for"),
    ),
    *of(
        "encoders/labelled.py", "unit/test_labelled.py",
        ("if path in exact:", "if False:"),
        ("_ends(sources[id], path) or _ends(path, sources[id])", "True"),
        ("if len(fitting) != 1:", "if not fitting:"),
        ("if held_out_store(data).split == store.split else None", ""),
    ),
    *of(
        "files/atomic.py", "unit/test_atomic.py",
        ("os.fsync(file.fileno())", "pass"),
        ("sync_folder(path.parent)", "pass"),
        ("file.flush()", "pass"),
        ("temporary.unlink(missing_ok=True)", "pass"),
    ),
    *of(
        "checkpoint/checkpoint.py", "distributed/test_checkpoint_shares.py "
        "end_to_end/test_resume.py::test_a_broken_checkpoint_is_named_and_passed_over",
        ("reverse=True)", "reverse=False)"),
        ("_local(value).copy_(_local(read[name]))", "_local(read[name])"),
    ),
    *of(
        "checkpoint/summary.py",
        "hostile/test_damaged_runs.py end_to_end/test_resume.py::test_a_broken_checkpoint_is_named_and_passed_over",
        ("if file_digest(path / name) != expected:", "if False:"),
        ("if document.get(OWN, \"\") not in", "if False and document.get(OWN, \"\") not in"),
        ("if wrong := [name for name in files if Path(name).name != name]:", "if wrong := []:"),
        ("if position.phase >= len(phases):", "if position.phase > len(phases):"),
    ),
    *of(
        "checkpoint/retention.py", "unit/test_retention.py",
        ("[config.keep :]", "[config.keep + 1 :]"),
        ("if path != best and not", "if not"),
        ("if marked.is_dir() and not marked.is_symlink():", "if False:"),
        ("batch == 0 and epochs %", "epochs %"),
    ),
    *of(
        "parallel/strategy/replicated.py", "unit/test_step.py",
        (
            "return self._parameters | {name: value for name, value in held if value is not None}",
            "return self._parameters",
        ),
    ),
    *of(
        "parallel/strategy/base.py", "unit/test_step_cost.py unit/test_optimiser.py unit/test_accumulation.py "
        "distributed/test_skipped_steps.py distributed/test_zero.py",
        (".clamp(max=1.0)", ""),
        ("for part in (*self.gradients(), *gradients):", "for part in self.gradients():"),
        ("self.squared_norm() + self._method_squared_norm()", "self.squared_norm()"),
        ("update(self.updates.method, skip)", "update(self.updates.method, torch.zeros_like(skip))"),
    ),
    *of(
        "parallel/strategy/data_parallel.py", "distributed/test_exact_gradients.py unit/test_precision.py",
        ("gradient = gradient * self.world.size", "gradient = gradient * 1"),
        ("nullcontext() if last or not", "nullcontext() if not last or not"),
    ),
    *of(
        "parallel/strategy/reproducible.py", "end_to_end/test_ranks.py::test_reproducible_is_the_same_in_float32[adam]",
        ("dtype=torch.float64, device=z.device", "dtype=torch.float32, device=z.device"),
    ),
    *of(
        "parallel/strategy/reproducible.py", "distributed/test_reproducible_clipping.py",
        ("sum_by_halves(self.world.gather_rows(rows, owned)[None])[0]", "self.world.sum(rows.sum())"),
        ("first[:, : rows.shape[1] - half] += rows[:, half:]", "pass"),
    ),
    *of(
        "model/dropout.py", "unit/test_dropout.py",
        ("layer.dropout = 0.0", "pass"),
        ("layer.drop_prob = 0.0", "pass"),
        ('type(layer).__name__ == "StochasticDepth"', "False"),
    ),
    *of(
        "training/learner.py", "unit/test_step.py distributed/test_skipped_steps.py",
        ("method_lr_scale=config.proxies.lr_scale", "method_lr_scale=1.0"),
        (STEP + AVERAGE, AVERAGE + STEP),
        ("torch.maximum(skip, self.strategy.overflow.to(skip))", "self.strategy.overflow.to(skip)"),
    ),
    *of(
        "search_index/build.py", "unit/test_index_build.py",
        ('"network": self.embedder.identity(), ', ""),
        ("if not try_lock(lock):", "if False:"),
        ("if lost := [part for part in parts if not part.exists()]:", "if lost := []:"),
        ("isinstance(faults[0], NotFinite)", "isinstance(faults[0], RunFailure)"),
    ),
    *of(
        "search_index/maintenance.py", "unit/test_index_failures.py unit/test_index_changes.py",
        ("tried = sorted(changed.fresh + changed.failed)", "tried = sorted(changed.fresh)"),
        ('or ".." in inner.parts', ""),
    ),
]  # fmt: skip
