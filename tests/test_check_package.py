"""What make wheel refuses: a wheel without a file of the package, or with others."""

from tests.tool_loading import load_tool

TRACKED = ["vidret/a.py", "vidret/serve/page/main.js", "tests/test_a.py", "pyproject.toml"]
GOOD = ["vidret/a.py", "vidret/serve/page/main.js", "vidret-0.1.dist-info/METADATA"]


def test_wheel_has_the_files_of_the_package_and_no_others() -> None:
    check = load_tool("check_package").check_files
    assert check(GOOD, TRACKED) == []
    assert check(GOOD[:1] + GOOD[2:], TRACKED) == ["the wheel lacks vidret/serve/page/main.js"]
    assert check([*GOOD, "tests/test_a.py", "vidret/old.py"], TRACKED) == [
        "the wheel has tests/test_a.py",
        "the wheel has vidret/old.py",
    ]
