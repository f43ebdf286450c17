"""What a run tells a person whose results would otherwise surprise them."""

from torch import nn

from dist_plm.training.learner import Learner

# Points of an untrained network lie at a mean cosine of about .99, a distance of .14; on a sphere at random, of 1.41.
COLLAPSED_DISTANCE = 0.2
COLLAPSED_RANK = 2.0


def batch_norm_warning(learner: Learner) -> str:
    """What to tell a person whose gradients depend on how many ranks there are; empty when they don't."""
    layers = sum(
        isinstance(module, nn.BatchNorm2d) for module in learner.student.modules()
    )  # frozen ones stay as they are
    if learner.config.model.batch_norm != "per_rank" or learner.world.size == 1 or not layers:
        return ""
    return (
        f"the {layers} batch norm layers take their statistics from each rank's images alone (model.batch_norm "
        "per_rank): gradients are 18-28 % off those of the whole batch, and another number of ranks trains another "
        "network. synchronised and frozen are exact"
    )


def start_warning(learner: Learner) -> str:
    """What to tell a person whose method begins to learn from what random weights make of the images."""
    model, method = learner.config.model, learner.method
    if model.weights or not (method.reads_teacher or method.batches == "clusters"):
        return ""
    return (
        f"{model.backbone} begins with random weights, and {learner.config.train.method} learns from how its own "
        "embeddings lie: name pretrained weights (model.weights), or spread the embeddings first (warm_up.epochs)"
    )


def collapse_warning(values: dict[str, float], phase: str, warm_up_epochs: int) -> str:
    """What to tell a person whose embeddings coincide; empty when they don't, or while a warm-up spreads them."""
    if phase == "warm_up":
        return ""
    distance, rank = values["mean_pair_distance"], values["effective_rank"]
    if distance >= COLLAPSED_DISTANCE and rank >= COLLAPSED_RANK:
        return ""
    return (
        f"the embeddings nearly coincide (mean pair distance {distance:.3f}, effective rank {rank:.1f}), so "
        "that hardly a pair can be told from another: start from pretrained weights (model.weights), or spread the "
        f"embeddings {f'for longer than {warm_up_epochs} epochs' if warm_up_epochs else 'first'} (warm_up.epochs)"
    )
