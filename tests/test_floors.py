"""The shape of the house: who may import whom, how large things are, what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core" / "cookbook"
FLOORS = {
    **dict.fromkeys(
        (
            "__init__",
            "types",
            "tools",
            "errors",
            "hookspecs",
            "registry",
            "kinds",
            "configs",
            "streams",
            "builtin",
            "renderer_rows",
            "files",
            "hints",
        ),
        0,
    ),
    "rendering": 1,
    "backends": 2,
    **dict.fromkeys(("rollout", "schedule", "data", "advantages", "metrics", "scores"), 3),
    **dict.fromkeys(
        (
            "rl",
            "sl",
            "training",
            "evaluate",
            "runs",
            "console",
            "preview",
            "provenance",
            "interrupt",
            "render_command",
            "options",
            "launch",
            "comparison",
            "evaluation_console",
            "eval_command",
        ),
        4,
    ),
    **dict.fromkeys(("testing", "check_command", "catalogue_command", "new_command", "scaffold", "cli"), 5),
}
SOURCES = sorted(CORE.rglob("*.py"))
PLUGIN_SOURCES = sorted((ROOT / "plugins").glob("*/src/**/*.py"))


def part(path: Path) -> str:
    """The room of the house that a file belongs to."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in the file."""
    package = ["cookbook", *path.relative_to(CORE).parent.parts] if CORE in path.parents else []
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_floor():
    assert {part(path) for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CORE)))
def test_a_module_imports_only_from_its_own_floor_or_a_lower_one(path):
    for name in imports(path):
        if name.startswith("cookbook."):
            room = name.split(".")[1]
            if room in FLOORS:  # else an attribute of the package itself, __version__ say
                lazy = part(path) == "__init__"  # the public names, imported when first used
                assert lazy or FLOORS[room] <= FLOORS[part(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if FLOORS[part(p)] < 2], ids=lambda p: p.stem)
def test_the_lower_floors_never_import_tinker(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "tinker"]


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=lambda p: p.stem)
def test_plugins_import_cookbook_and_never_each_other(path):
    own = path.relative_to(ROOT / "plugins").parts[2]
    for name in imports(path):
        assert not name.startswith("cookbook_plugin_") or name.split(".")[0] == own, name


@pytest.mark.parametrize("path", SOURCES + PLUGIN_SOURCES, ids=lambda p: p.stem)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < (60 if node.name in ("train", "_work") else 45), node.name


def test_importing_cookbook_and_writing_a_plugin_loads_nothing_heavy():
    heavy = ["numpy", "tinker", "torch", "transformers", "datasets", "chz", "rich"]
    code = f"import sys, cookbook; cookbook.hookimpl; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these():
    import cookbook

    kinds = {f"{kind}Config" for kind in ("Backend", "Dataset", "Env", "Grader", "Tracker")}
    types = {"Env", "Episode", "Grade", "Message", "Question", "Start", "Step", "Task", "Turn"}
    rest = {"__version__", "CookbookError", "by_id", "hookimpl", "preset"}
    assert set(cookbook.__all__) == kinds | types | rest
    for name in cookbook.__all__:
        assert getattr(cookbook, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cookbook.Nothing  # noqa: B018


def test_versions_are_in_lockstep():
    import tomllib

    import cookbook

    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        assert project["version"] == cookbook.__version__
        assert "cookbook-core>=0.1,<0.2" in project["dependencies"]
