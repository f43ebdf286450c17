"""Names of the files of an index directory, which changes without disturbing those who read it.

Each change writes files of a new generation, and then index.json, which says the generation. The files of the one
before stay until the next change: a reader that has read index.json opens what it names, whatever is written since.
"""

from pathlib import Path

SUMMARY, EMBEDDINGS, ROWS, UNREADABLE, IGNORED, INDEX, ENCODER = (
    *("index.json", "embeddings.npy", "images.jsonl", "unreadable.jsonl", "ignored.jsonl", "index.faiss", "encoder"),
)
CHANGING = (EMBEDDINGS, ROWS, UNREADABLE, IGNORED, INDEX)
"""The files that have generations; the first one is without a number."""


def file_of(name: str, generation: int) -> str:
    """`embeddings.npy` of generation 3 is `embeddings.3.npy`."""
    path = Path(name)
    return name if generation == 1 else f"{path.stem}.{generation}{path.suffix}"
