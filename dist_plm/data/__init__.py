"""From shards to batches: random and sequential reads, seeded views, and the plan that says what a step reads."""
