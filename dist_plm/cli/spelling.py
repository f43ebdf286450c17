"""Spelling of keys: American variants, and suggestions for misspelt ones."""

import difflib
from collections.abc import Iterable, Iterator

# American spelling of the parts of keys, and of the values of the two keys below.
AMERICAN = {
    "center": "centre",
    "neighbor_contrast": "neighbour_contrast",
    "optimizer": "optimiser",
    "synchronized": "synchronised",
}
SPELLED_VALUES = ("train.method", "model.batch_norm")


def schema_spelling(name: str) -> str:
    """A dotted key, or a value of one of `SPELLED_VALUES`, as the schema spells it."""
    return ".".join(AMERICAN.get(part, part) for part in name.split("."))


def respelled(words: Iterable[str]) -> Iterator[str]:
    """The arguments with options, and values of `SPELLED_VALUES`, in the spelling of the schema."""
    previous = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            previous = schema_spelling(option.removeprefix("--"))
            if previous in SPELLED_VALUES:
                value = schema_spelling(value)
            yield f"--{previous}{equals}{value}"
        else:
            yield schema_spelling(word) if previous in SPELLED_VALUES else word
            previous = ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean A or B?` for an unknown option or key, or empty if none is close.

    Args:
        name: Without leading dashes.
        known: All valid names, without leading dashes.
    """
    known = list(known)
    keys = [key for key in known if not any(other.startswith(f"{key}.") for other in known)]
    last = name.rpartition(".")[2]
    # `--lr` and `--train.lr` are more likely `optimiser.lr` than the key with the most letters in common.
    near = [key for key in keys if "." in key and key.rpartition(".")[2] == last]
    if not near and "." not in name:
        near = difflib.get_close_matches(name, {key.partition(".")[0] for key in keys}, n=1, cutoff=0.75)
    near = near or difflib.get_close_matches(name, keys, n=1, cutoff=0.75)
    if not near:
        ends = {key.rpartition(".")[2]: key for key in keys}
        near = [ends[end] for end in difflib.get_close_matches(last, ends, n=1, cutoff=0.75)]
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""
