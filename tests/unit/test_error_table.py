"""docs/errors.md says what the program says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {
    "UserError",
    "MachineError",
    "RunFailure",
    "RankFailure",
    "StoreFailure",
    "Refused",
    "NotFinite",
    "OtherImages",
}
GAP = "…"


def messages() -> set[str]:
    """Every message of an error that a person reads, with GAP for what is filled in."""
    found = set()
    for folder in ("dist_plm", "shards", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _called(node.func) in ERRORS and node.args:
                    found.add(_text(node.args[0]))
    return found


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return GAP


def test_every_row_is_a_message():
    rows = re.findall(r"^\| ``(.+?)`` \| (.+) \| (.+) \|$", (ROOT / "docs" / "errors.md").read_text(), re.M)
    assert len(rows) >= 40
    known = messages()
    assert [message for message, _, _ in rows if message not in known] == []
    assert all(because.strip() and mend.strip() for _, because, mend in rows)


def test_quoted_messages_of_the_faq_exist():
    quoted = re.findall(r'^\*\*"(.+?)"\.\*\*', (ROOT / "docs" / "faq.md").read_text(), re.M)
    known = " ".join(messages()) + (ROOT / "dist_plm" / "training" / "journal.py").read_text()
    assert len(quoted) >= 4
    for message in quoted:
        assert all(piece.strip(" .") in known for piece in message.split("...")), message
