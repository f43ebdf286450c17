"""Builds and verifies data sets: official layouts, image folders and rendered glyphs to WebDataset shards."""
