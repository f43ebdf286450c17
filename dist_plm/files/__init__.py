"""Atomic replacement of files, and the encoding of their names."""
