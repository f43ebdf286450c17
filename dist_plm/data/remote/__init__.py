"""Data sets at a URL: tables are copied once per node, images are prefetched and cached on its disk."""
