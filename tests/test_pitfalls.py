"""What goes wrong for authors of plugins, through the real command: each error says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.authors

ENV = """
    import chz
    from cookbook import EnvConfig, Question

    @chz.chz
    class Caps(EnvConfig):
        letters: int = 3

        def tasks(self, split):
            return [Question("?", "a", "math/integer")]
"""
HOOKS = """
    from cookbook import hookimpl

    @hookimpl
    def register_envs(register):
        register("caps", "{module}.caps:Caps", "Capital letters")

    @hookimpl
    def register_recipes(register):
        register("first", "{module}.recipes:first", "A first recipe")
"""
RECIPE = """
    from cookbook import preset
    from cookbook.rl import RLConfig

    def first():
        return preset(RLConfig, name="words/first", env="words/caps", model="m"{values})
"""


@pytest.fixture
def package(tmp_path):
    """`package(hooks=..., installed=..., declared=...)`: a plugin in a folder, installed in place.

    installed, declared: the module that the entry point `words` names in what was installed, and in the
    folder's pyproject.toml; None: there is no such entry point.
    """

    def package(hooks=HOOKS, values="", installed="made_up_words", declared="made_up_words"):
        folder = tmp_path / "plugin words"
        for module in {installed, declared, "made_up_words"} - {None, "gone"}:
            (folder / module).mkdir(parents=True, exist_ok=True)
            for name, code in {
                "__init__": hooks.replace("{module}", module),
                "caps": ENV,
                "recipes": RECIPE.replace("{values}", values),
            }.items():
                (folder / module / f"{name}.py").write_text(textwrap.dedent(code))
        points = f'[project.entry-points.cookbook]\nwords = "{declared}"\n' if declared else ""
        (folder / "pyproject.toml").write_text(f'[project]\nname = "dist-words"\nversion = "1.0"\n{points}')
        info = folder / "dist_words-1.0.dist-info"
        info.mkdir()
        head = (
            "Metadata-Version: 2.1\nName: dist-words\nVersion: 1.0\nRequires-Dist: cookbook-core>=0.1,<0.2\n"
        )
        (info / "METADATA").write_text(head)
        (info / "entry_points.txt").write_text(f"[cookbook]\nwords = {installed}\n" if installed else "")
        (info / "direct_url.json").write_text(
            json.dumps({"dir_info": {"editable": True}, "url": folder.as_uri()})
        )
        return folder

    return package


@pytest.fixture
def cook(tmp_path):
    """`cook(word, ..., **environment)`: the exit code and what was printed, from an empty folder."""
    here = tmp_path / "here"
    here.mkdir()

    def cook(*argv, **environment):
        path = os.pathsep.join([str(tmp_path / "plugin words"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "cookbook.cli", *map(str, argv)],
            capture_output=True,
            text=True,
            cwd=here,
            env={**os.environ, "PYTHONPATH": path, "COOKBOOK_RUNS": str(tmp_path / "runs"), **environment},
        )
        assert "Traceback" not in done.stderr
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return cook


def one_line(done, *parts):
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    for part in parts:
        assert part in done.err


def test_a_plugin_that_is_as_it_was_installed_is_no_pitfall(cook, package):
    package()
    assert cook("show", "words/caps").code == 0
    done = cook("plugins")
    assert "words: dist-words 1.0, ok, 2 rows\n" in done.out and "stale" not in done.out
    one_line(cook("show", "words/cap"), "did you mean words/caps?")
    settled = cook("run", "words/first", "env.letters=4", "--help")
    assert settled.code == 0 and "env.letters" in settled.out


@pytest.mark.parametrize(
    "argv", [("show", "words/caps"), ("run", "words/first"), ("words",), ("words", "go")]
)
def test_entry_points_from_before_the_plugin_had_one_are_named_with_what_to_do(cook, package, argv):
    folder = package(installed=None)
    one_line(cook(*argv), "has the entry point words = 'made_up_words', and none is installed;")
    one_line(cook(*argv), f"pip install -e '{folder}' again")


def test_entry_points_that_differ_are_shown_by_plugins(cook, package):
    folder = package(installed="gone")
    done = cook("plugins")
    assert done.code == 0
    assert "words: dist-words 1.0, broken, 0 rows\n" in done.out
    stale = f"words = 'made_up_words', and another is installed; pip install -e '{folder}' again"
    assert "words: dist-words 1.0, stale, 0 rows\n" in done.out and stale in done.out
    assert [p["status"] for p in json.loads(cook("plugins", "--json").out)][-1] == "stale"
    one_line(cook("show", "words/caps"), stale)


def test_an_entry_point_that_the_folder_has_no_more_is_told(cook, package):
    package(installed="gone", declared=None)
    assert (
        "pyproject.toml has no entry point words any more, and it is still installed; pip"
        in cook("plugins").out
    )


@pytest.mark.parametrize("text", ["{", "[project]\nname = 3\n[project.entry-points]\ncookbook = 7\n", None])
def test_a_folder_that_says_nothing_readable_is_left_alone(cook, package, text):
    folder = package()
    (folder / "pyproject.toml").unlink()
    if text is not None:
        (folder / "pyproject.toml").write_text(text)
    assert "stale" not in cook("plugins").out


def test_what_is_found_costs_no_look_for_what_is_out_of_date(cook, package, monkeypatch):
    package()
    done = cook("list", PYTHONPROFILEIMPORTTIME="1")
    assert done.code == 0 and "cookbook.hints" in done.err
    assert "tomllib" not in done.err


def test_a_hook_without_hookimpl_is_told_wherever_its_rows_are_missed(cook, package):
    package(hooks=HOOKS.replace("@hookimpl", ""))
    how = "register_envs, register_recipes: never called; write @cookbook.hookimpl above"
    assert how in cook("plugins").out
    assert "with warnings: words; `cookbook plugins` shows them" in cook("list").err
    one_line(cook("show", "words/caps"), how)
    one_line(cook("run", "core/rl", "env=words/caps", "model=m"), how)


def test_a_module_that_lies_elsewhere_is_named_with_its_folder(cook, tmp_path):
    argv = ("run", "core/rl", "env=my_module:Caps", "model=m")
    here = tmp_path / "here"
    one_line(cook(*argv), "env=my_module:Caps: No module named 'my_module'; there is no my_module.py in")
    one_line(cook(*argv), f"{here}, and nothing of that name is installed: cd to where it lies")
    (tmp_path / "my_module.py").write_text(textwrap.dedent(ENV))
    one_line(cook(*argv), f"no my_module.py in {here}, but in {tmp_path}: cd there")
    (tmp_path / "my_module.py").rename(tmp_path / "gone.py")
    (here / "src" / "my_module").mkdir(parents=True)
    (here / "src" / "my_module" / "__init__.py").write_text(textwrap.dedent(ENV))
    one_line(cook(*argv), f"but in {here / 'src'}: cd there")


@pytest.mark.parametrize("values", [", env.digits=3", ",\n            env.digits=3,\n    "])
def test_a_dotted_keyword_in_a_recipe_is_told_how_to_be_written(cook, package, values):
    package(values=values)
    one_line(cook("run", "words/first"), "SyntaxError", 'is written **{"env.digits": 3}', "recipes.py, line")


@pytest.mark.parametrize(
    ("values", "name"), [("env_letters", "env.letters"), ("limits_max_turns", "limits.max_turns")]
)
def test_an_underscore_for_a_dot_is_told_how_to_be_written(cook, package, values, name):
    package(values=f", {values}=3")
    guess = f"there is no option '{values}'; did you mean '{name}'"
    one_line(cook("run", "words/first"), f'{guess}, in a recipe **{{"{name}": ...}}?')
    one_line(cook("run", "core/rl", "env=words/caps", "model=m", f"{values}=3"), f"{guess}? (--help lists")


def test_a_plugin_that_is_left_out_is_told_wherever_an_id_of_it_is_missed(cook, package):
    package()
    out = {"COOKBOOK_DISABLE_PLUGINS": "words"}
    for argv in (
        ("show", "words/caps"),
        ("show", "env:words/caps"),
        ("run", "words/first"),
        ("run", "core/rl", "env=words/caps", "model=m"),
        ("run", "core/rl", "env=math/arithmetic", "evals.0=words/caps", "model=m"),
        ("run", "core/rl", "env=math/arithmetic", "model=m", "renderer=words/caps", "backend=words/caps"),
        ("words",),
        ("words", "go"),
    ):
        done = cook(*argv, **out)
        one_line(done, "dist-words 1.0 is disabled: COOKBOOK_DISABLE_PLUGINS names words; take it out")
    done = cook("list", **out)
    assert done.code == 0 and "words/" not in done.out
    assert done.err == "left out by COOKBOOK_DISABLE_PLUGINS: words\n"
