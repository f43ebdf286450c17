"""Warnings about settings and states that lead to unexpected results."""

from torch import nn

from dist_plm.training.learner import Learner

# Embeddings of an untrained network have a mean cosine of about .99, a distance of .14; random unit vectors 1.41.
COLLAPSED_DISTANCE = 0.2
COLLAPSED_RANK = 2.0


def batch_norm_warning(learner: Learner) -> str:
    """Warning about gradients that depend on the world size; empty if they don't."""
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in learner.student.modules())  # frozen ones don't change
    if learner.config.model.batch_norm != "per_rank" or learner.world.size == 1 or not layers:
        return ""
    return (
        f"the {layers} batch norm layers compute statistics over each rank's images only (model.batch_norm "
        "per_rank): gradients differ by 18-28 % from those of the whole batch, and the result depends on the "
        "world size. synchronised and frozen are exact"
    )


def start_warning(learner: Learner) -> str:
    """Warning about a method that learns from embeddings of random weights."""
    model, method = learner.config.model, learner.method
    if model.weights or not (method.reads_teacher or method.batches == "clusters"):
        return ""
    return (
        f"{model.backbone} starts from random weights, and {learner.config.train.method} learns from its own "
        "embeddings: set pretrained weights (model.weights), or spread the embeddings first (warm_up.epochs)"
    )


def collapse_warning(values: dict[str, float], phase: str, warm_up_epochs: int) -> str:
    """Warning about collapsed embeddings; empty if they are not, or during a warm-up that spreads them."""
    if phase == "warm_up":
        return ""
    distance, rank = values["mean_pair_distance"], values["effective_rank"]
    if distance >= COLLAPSED_DISTANCE and rank >= COLLAPSED_RANK:
        return ""
    return (
        f"the embeddings nearly coincide (mean pair distance {distance:.3f}, effective rank {rank:.1f}), so "
        "that neighbours are arbitrary: start from pretrained weights (model.weights), or spread the "
        f"embeddings {f'for longer than {warm_up_epochs} epochs' if warm_up_epochs else 'first'} (warm_up.epochs)"
    )
