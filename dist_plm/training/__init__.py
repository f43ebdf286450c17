"""The run: what learns, in which order, what it says, and where it goes on."""
