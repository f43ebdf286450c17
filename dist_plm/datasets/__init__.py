"""Makes data sets: official layouts, plain folders and rendered glyphs to WebDataset tars with an offset table."""
