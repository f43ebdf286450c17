"""A catalogue of images: their embeddings in a searchable index, their names, and where to read them."""

from dist_plm.search_index.search_index import Catalogue, Neighbour

__all__ = ["Catalogue", "Neighbour"]
