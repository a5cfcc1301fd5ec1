"""What the documents say is true of the code."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import consoles

from cookbook import cli, hookspecs, registry
from cookbook.runs import read_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_environments_play(tmp_path, monkeypatch, capsys, tiny_model):
    one_turn, several_turns, *_ = blocks("python")
    assert len([line for line in one_turn.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_envs.py").write_text(one_turn + several_turns)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    here = ["backend=local/torch", "backend.dtype=float32", f"model={tiny_model}", "renderer=core/chatml"]
    brief = ["run", "core/rl", "env=my_envs:Brief", "env.letters=8", *here]
    assert cli.main([*brief, "--dry-run"]) == 0
    assert "'N'" in capsys.readouterr().out
    assert cli.main([*brief, "steps=1", "max_tokens=8", "--name", "x"]) == 0
    guessing = ["run", "core/rl", "env=my_envs:Guessing", "limits.max_turns=3", *here]
    assert cli.main([*guessing, "steps=1", "max_tokens=8", "--name", "y"]) == 0
    assert "stop/max_turns" in read_rows(tmp_path / "runs" / "y")[0]


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"cookbook (\w+)", " ".join(blocks("") + [README]))))
)
def test_every_command_of_the_readme_exists(command):
    of_plugins = {row.id.partition("/")[0] for row in registry.default().rows("command")}
    assert command in {*cli.COMMANDS, *of_plugins, "import"}


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_of_core_stands_on_the_map():
    page = (ROOT / "docs" / "12-where-everything-lies.md").read_text()
    for path in (ROOT / "core" / "cookbook").glob("*"):
        if path.name not in ("__pycache__", "__init__.py", "py.typed"):
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in page, path.name


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:`|^ +)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets, (
            page.name
        )


def test_every_hook_has_a_section_with_an_example_that_loads(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "09-hooks.md").read_text()
    headings = re.findall(r"^## (\w+_\w+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(registry.HOOKS)
    place = consoles.Place(tmp_path, installs=False)
    for block in consoles.blocks(text):
        name, added = block.value("title"), block.value("append")
        if name or added:
            place.write(name or added, "".join(f"{line}\n" for line in block.lines), add=bool(added))
    info = place.top / "cookbook_plugin_words-0.1.0.dist-info"
    info.mkdir()
    project = tomllib.loads((place.top / "pyproject.toml").read_text())["project"]
    head = f"Name: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head + "".join(f"Requires-Dist: {d}\n" for d in project["dependencies"]))
    points = "".join(f"{k} = {v}\n" for k, v in project["entry-points"]["cookbook"].items())
    (info / "entry_points.txt").write_text(f"[cookbook]\n{points}")
    monkeypatch.syspath_prepend(place.top)
    try:
        found = registry.Registry.scan([place.top])
        (plugin,) = found.plugins
        assert (plugin.status, plugin.problems) == ("ok", [])
        assert {row.kind for row in plugin.rows} == set(registry.KINDS)
        assert all(row.load() for row in plugin.rows)
        assert found.renderer_for_model("words/8B") == "words/terse"
    finally:
        for module in [name for name in sys.modules if name.startswith("cookbook_plugin_words")]:
            del sys.modules[module]


def test_every_hook_says_in_its_docstring_what_it_is_for():
    from cookbook.registry import HOOKS

    for name in HOOKS:
        assert getattr(hookspecs, name).__doc__
