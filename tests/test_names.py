"""Public names are unique, and variables are named by what they hold."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1] / "vidret"
NO_NAMES = {"own", "each", "elem", "tmp", "curr", "cur"}


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


def list_variables(source: str) -> set[str]:
    """Return the names of the variables and arguments of a module."""
    nodes = list(ast.walk(ast.parse(source)))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in nodes if isinstance(node, ast.arg)}


def test_no_variable_has_a_name_that_says_nothing() -> None:
    sources = {path: path.read_text("utf-8") for path in ROOT.rglob("*.py")}
    suspects = {path: source for path, source in sources.items() if NO_NAMES & set(re.findall(r"\w+", source))}
    variables = {path: list_variables(source) for path, source in suspects.items()}
    assert {path: names & NO_NAMES for path, names in variables.items() if names & NO_NAMES} == {}
