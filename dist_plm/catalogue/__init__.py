"""A catalogue of images: their embeddings in a searchable index, their names, and where to read them."""

from dist_plm.catalogue.catalogue import Catalogue, Neighbour

__all__ = ["Catalogue", "Neighbour"]
