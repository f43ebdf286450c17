"""Checks of section `manifold` for the methods that use it; raise UserError."""

from dist_plm.config import Config
from dist_plm.data.opening import manifest_of
from dist_plm.errors import UserError


def check_k(config: Config, world_size: int) -> None:
    """Check that `manifold.k` neighbours exist among the points of a batch, or of a rank's groups."""
    manifold = config.manifold
    points = config.batch.images * config.views.count // (world_size if manifold.scope == "rank" else 1)
    if manifold.k >= points:
        raise UserError(
            f"manifold.k {manifold.k} neighbours don't exist among {points} points "
            f"(batch.groups x batch.group_size x views.count{' / ranks' if manifold.scope == 'rank' else ''}): "
            "lower manifold.k or enlarge the batch"
        )


def check_images(config: Config) -> None:
    """Check that `manifold.k` neighbours of an image exist among the training images."""
    images = manifest_of(config.data).splits[config.data.train_split].samples
    if config.manifold.k >= images:
        raise UserError(
            f"manifold.k {config.manifold.k} neighbours don't exist among the {images} images of split "
            f"{config.data.train_split!r}: lower manifold.k"
        )


def check_pieces(config: Config) -> None:
    """Check source of neighbours and projection of PLM."""
    manifold = config.manifold
    if manifold.scope == "gallery":
        if manifold.similarity == "binary":
            raise UserError(
                "manifold.similarity binary needs neighbours in the batch, and with manifold.scope "
                "gallery they are not: set --manifold.similarity graded"
            )
        check_images(config)
    elif manifold.piece == "image":
        raise UserError("manifold.piece image needs --manifold.scope gallery: each view has its own otherwise")
    if manifold.project and manifold.centre != "mean":
        raise UserError(
            f"manifold.project has no effect with manifold.centre {manifold.centre}, whose neighbourhoods contain the "
            "point itself or the origin: set --manifold.centre mean"
        )
