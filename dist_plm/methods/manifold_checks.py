"""Rules across the keys of section `manifold`, for the methods that read it. Each fault is a UserError."""

from dist_plm.config import Config
from dist_plm.data.opening import manifest_of
from dist_plm.errors import UserError


def check_k(config: Config, world_size: int) -> None:
    """`manifold.k` neighbours must exist among the points of a batch, or of a rank's groups."""
    manifold = config.manifold
    points = config.batch.images * config.views.count // (world_size if manifold.scope == "rank" else 1)
    if manifold.k >= points:
        raise UserError(
            f"manifold.k {manifold.k} neighbours don't exist among {points} points "
            f"(batch.groups x batch.group_size x views.count{' / ranks' if manifold.scope == 'rank' else ''}): "
            "lower manifold.k or enlarge the batch"
        )


def check_pieces(config: Config) -> None:
    """Where the neighbours of PLM come from, and what is projected."""
    manifold = config.manifold
    if manifold.scope == "gallery":
        if manifold.similarity == "binary":
            raise UserError(
                "manifold.similarity binary asks which points of the batch are neighbours, and with manifold.scope "
                "gallery the neighbours are not in the batch: set --manifold.similarity graded"
            )
        images = manifest_of(config.data).splits[config.data.train_split].samples
        if manifold.k >= images:
            raise UserError(
                f"manifold.k {manifold.k} neighbours don't exist among the {images} images of split "
                f"{config.data.train_split!r}: lower manifold.k"
            )
    elif manifold.piece == "image":
        raise UserError("manifold.piece image needs --manifold.scope gallery: in a batch each view has its own piece")
    if manifold.project and manifold.centre != "mean":
        raise UserError(
            f"manifold.project has no effect with manifold.centre {manifold.centre}, whose pieces contain the point "
            "itself or the origin: set --manifold.centre mean"
        )
