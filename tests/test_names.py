"""Public names are unique: no two functions or classes of vidret share one."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1] / "vidret"


def list_public_names(source: str) -> list[str]:
    """Return the names of the public functions and classes at the top level of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_no_public_name_is_defined_twice() -> None:
    modules = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for name in list_public_names(path.read_text("utf-8")):
            modules[name].add(path.relative_to(ROOT.parent).as_posix())
    assert len(modules) > 500
    assert {name: sorted(paths) for name, paths in modules.items() if len(paths) > 1} == {}
