"""docs/gpu.md names every function with a line that only a GPU or NCCL executes."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "dist_plm"
LEDGER = ROOT.parent / "docs" / "gpu.md"
MARK = re.compile(
    r"cuda|nccl|nvjpeg|triton|pin_memory|non_blocking|side_?stream|wait_stream|record_stream|gpu|^pin$|^compiled$", re.I
)


def marked(node: ast.AST) -> bool:
    """Whether a name, attribute, argument or one-word string below `node` says that a GPU is meant."""
    prose = {id(part) for each in ast.walk(node) if isinstance(each, ast.JoinedStr) for part in each.values}
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute):
            word = "compiled" if ast.unparse(each) == "torch.compile" else each.attr
        elif isinstance(each, ast.Constant):
            word = each.value if isinstance(each.value, str) and id(each) not in prose else ""
            word = "" if " " in word else word
        else:
            word = getattr(each, "id", None) or getattr(each, "arg", None) or ""
        if MARK.search(word):
            return True
    return False


def functions(tree: ast.Module) -> set[str]:
    """Names of the functions, and of what else a module or class holds as its own name or `module`."""
    found = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                if marked(node):
                    found.add(f"{prefix}{node.name}")
            elif isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            elif not isinstance(node, ast.Import | ast.ImportFrom) and marked(node):
                found.add(prefix.rstrip(".") or "module")

    visit(tree.body, "")
    return found


def needed() -> set[tuple[str, str]]:
    """(file, function) of every line."""
    files = {path.relative_to(ROOT).as_posix(): functions(ast.parse(path.read_text())) for path in ROOT.rglob("*.py")}
    return {(file, name) for file, names in files.items() for name in names}


def rows() -> list[tuple[str, list[str], list[str]]]:
    """File, functions and the other cells of each row of the ledger."""
    found = []
    for line in LEDGER.read_text().splitlines():
        if match := re.match(r"^\| `([\w/]+\.py)`: (.+?) \| (.+) \|$", line):
            found.append((match[1], re.findall(r"`([\w.]+)`", match[2]), match[3].split(" | ")))
    return found


def test_every_line_for_a_gpu_is_in_a_row():
    listed = {(file, name) for file, names, _ in rows() for name in names}
    assert needed() - listed == set(), "add these to docs/gpu.md"
    assert listed - needed() == set(), "docs/gpu.md names what is not there, or needs no GPU"


def test_every_row_says_what_proves_it():
    for file, _, cells in rows():
        assert len(cells) == 3 and all(cell.strip() for cell in cells), file
        for test in re.findall(r"tests/[\w/]+\.py", cells[1]):
            assert (ROOT.parent / test).exists(), test


def test_a_new_line_would_be_seen():
    source = (
        "class A:\n    def f(self, x):\n        return x.to('cuda')\ndef g(x):\n    'of cuda'\n    return x.is_cuda"
    )
    assert functions(ast.parse(source)) == {"A.f", "g"}
    assert functions(ast.parse("def h(x):\n    raise ValueError(f'no cuda {x}', 'no cuda here')\n")) == set()
