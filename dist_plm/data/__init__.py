"""From shards to batches: file format, local and remote reads, decoding, augmented views, batch plans, loader."""
