"""A searchable index of images on disk: build, query, contact sheet and web page of `embed`, `search` and `serve`."""

from dist_plm.search_index.search_index import Catalogue, Neighbour

__all__ = ["Catalogue", "Neighbour"]
