"""The examples in the docstrings of vidret, run as doctests."""

import ast
import importlib
from doctest import DocTestParser, DocTestRunner
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = [path.relative_to(ROOT) for path in sorted((ROOT / "vidret").rglob("*.py")) if ">>>" in path.read_text("utf-8")]


def run_examples(source: str, path: str, names: dict[str, object]) -> tuple[int, str]:
    """Run the examples in a source file; return their number, and a report of those that fail.

    The docstrings are read from the source since doctest overlooks functions that are decorated, as the check of shapes
    does.
    """
    runner = DocTestRunner(verbose=False)
    report: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            name = getattr(node, "name", path)
            runner.run(DocTestParser().get_doctest(docstring, dict(names), name, path, None), out=report.append)
    return runner.tries, "".join(report)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_examples_return_what_they_show(path: Path) -> None:
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    source = (ROOT / path).read_text("utf-8")
    num_examples, report = run_examples(source, str(path), vars(module))
    assert num_examples == source.count(">>> ")
    assert not report, report
