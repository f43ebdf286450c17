"""Summary of all files of a source: used, rejected for a reason, or ignored by a rule."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path


def account(source: str, taken: int, rejected: Iterable[str], ignored: Iterable[str]) -> str:
    """A table of the files of a source by outcome.

    Args:
        source: Name of the source.
        taken: Files that became images.
        rejected: The reason of each file that could not be read as an image.
        ignored: The rule by which each other file was skipped.
    """
    reasons, rules = Counter(map(_kind, rejected)), Counter(map(_kind, ignored))
    lines = [f"files of {source}: {taken + reasons.total() + rules.total():,}", f"{taken:>11,}  taken"]
    for name, kinds in (("rejected", reasons), ("ignored", rules)):
        lines.append(f"{kinds.total():>11,}  {name}")
        lines += [f"{count:>15,}  {kind}" for kind, count in kinds.most_common()]
    return "\n".join(lines)


def reasons(path: Path) -> Iterator[str]:
    """The reason in each line of a list such as rejected.jsonl; none where there is no such file."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield str(json.loads(line)["reason"])


def _kind(reason: str) -> str:
    """A reason without file-specific details."""
    if reason.startswith("not an image in"):
        return reason.split(";")[0]
    return re.sub(r"\d[\d,.]*", "N", reason.split(":")[0].splitlines()[0])
