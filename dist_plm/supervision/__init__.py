"""The paper's table 2: how good the estimates are that a method trains on."""
