"""Goal S11: nothing that we ship runs what it was sent."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    path
    for package in ROOT.glob("riteraft_*")
    for folder in ("src", "python")
    for path in (package / folder).rglob("*.py")
)
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_FUNCTIONS = {"os.system", "os.popen"}


def findings(tree: ast.AST) -> Iterator[str]:
    """Yield each place where bytes could become code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            names = []
            function = node.func
            if isinstance(function, ast.Name) and function.id in UNSAFE_CALLS:
                yield f"line {node.lineno}: {function.id}()"
            elif ast.unparse(function) in UNSAFE_FUNCTIONS:
                yield f"line {node.lineno}: {ast.unparse(function)}()"
            if any(word.arg == "shell" and not _is_false(word.value) for word in node.keywords):
                yield f"line {node.lineno}: shell=..."
        else:
            continue
        for name in names:
            if name.partition(".")[0] in UNSAFE_MODULES:
                yield f"line {node.lineno}: import {name}"


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_s11_the_shipped_sources_are_looked_at() -> None:
    assert len(SHIPPED) > 50


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_s11_nothing_from_outside_becomes_code(path: Path) -> None:
    assert list(findings(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import yaml",
        "eval(x)",
        "run(x, shell=True)",
        "os.system(x)",
        "def f():\n    import dill",
    ],
)
def test_s11_the_lint_finds_what_it_looks_for(source: str) -> None:
    assert len(list(findings(ast.parse(source)))) == 1
