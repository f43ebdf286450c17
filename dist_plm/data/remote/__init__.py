"""A data set at a URL: tables are copied once a node, images fetched ahead of their steps and kept on its disk."""
