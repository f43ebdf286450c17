"""STML as its authors' code runs it, where this project's configuration differs: one reading at a time, on one rank.

Read off the code at github.com/tjddus9597/STML-CVPR22 (c39ff1e).
"""

from collections.abc import Callable

import timm.optim
import torch
from torch import Tensor, nn

from dist_plm.index.embedding_pass import Embed
from dist_plm.model.encoder import Encoder, Heads
from dist_plm.training.learner import Learner


def unnormalised(student: nn.Module, pooled: Tensor) -> Tensor:
    """f and g of pooled features [b, F], without l2 normalisation: [b, D + wide_dim]."""
    assert isinstance(student, Heads) and student.wide_head is not None
    return torch.cat([student.head(pooled), student.wide_head(pooled)], dim=1)


def student_g(learner: Learner) -> Embed:
    """Maps [b, C, h, w] -> the student's g in evaluation mode, without normalisation [b, wide_dim]."""
    student, dim = learner.student.eval(), learner.config.model.dim
    assert isinstance(student, Encoder)

    @torch.no_grad()
    def embed(maps: Tensor) -> Tensor:
        return unnormalised(student, student.pooled(maps))[:, dim:]

    return embed


def _train_unnormalised(learner: Learner) -> None:
    """The loss gets the student's f and g without normalisation; recall is that of normalised embeddings, as always."""
    student = learner.student
    assert isinstance(student, Heads)
    normalised = student.points

    def points(pooled: Tensor) -> Tensor:
        return unnormalised(student, pooled) if student.training else normalised(pooled)

    student.points = points  # type: ignore[method-assign]


def _draw_teacher_heads(learner: Learner) -> None:
    """The teacher's f and g start from orthogonal weights of their own; its weight is .999^t of the average."""
    teacher = learner.teacher.encoder
    assert isinstance(teacher, Heads) and teacher.wide_head is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(learner.config.seed + 1000)
        nn.init.orthogonal_(teacher.head.weight)
        nn.init.orthogonal_(teacher.wide_head.weight)


def _average_first(learner: Learner) -> None:
    """The average moves towards the student before the optimiser's step, not after it."""
    update, step = learner.teacher.update, learner.strategy.step

    def average_then_step(skip: Tensor) -> None:
        update(learner.student, learner.strategy.local)
        step(skip)

    learner.strategy.step = average_then_step  # type: ignore[method-assign]
    learner.teacher.update = lambda *_: None  # type: ignore[method-assign]


def _use_adamp(learner: Learner) -> None:
    """AdamP with Nesterov's momentum in place of AdamW."""
    updates = learner.strategy.updates
    rule = timm.optim.AdamP(updates.network.param_groups, lr=0.0, nesterov=True)
    object.__setattr__(updates, "network", rule)


# `sampler`: the neighbours in a batch are those of the student's g, without normalisation, not those of the teacher's.
READINGS: dict[str, Callable[[Learner], None]] = {
    "unnormalised": _train_unnormalised,
    "teacher_heads": _draw_teacher_heads,
    "average_first": _average_first,
    "adamp": _use_adamp,
    "sampler": lambda learner: None,
}
