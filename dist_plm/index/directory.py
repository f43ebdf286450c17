"""File names of an index directory, which can be changed while it is read.

Each change writes files of a new generation, then index.json, which names the generation. The previous files are kept
until the next change, so that a reader of the old index.json can still open them.
"""

from pathlib import Path

SUMMARY, EMBEDDINGS, ROWS, UNREADABLE, IGNORED, INDEX, ENCODER = (
    *("index.json", "embeddings.npy", "images.jsonl", "unreadable.jsonl", "ignored.jsonl", "index.faiss", "encoder"),
)
CHANGING = (EMBEDDINGS, ROWS, UNREADABLE, IGNORED, INDEX)
"""Files with generations; the first generation has no number."""


def file_of(name: str, generation: int) -> str:
    """`embeddings.npy` of generation 3 is `embeddings.3.npy`."""
    path = Path(name)
    return name if generation == 1 else f"{path.stem}.{generation}{path.suffix}"
