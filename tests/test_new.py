"""`cookbook new`: what it writes works as it stands, for every kind; what can't be is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cookbook
from cookbook import cli, files, new_command
from cookbook.runs import read_rows

pytestmark = pytest.mark.authors

ROOT = Path(__file__).parents[1]
SCAFFOLD = ROOT / "core" / "cookbook" / "scaffold"
KINDS = list(new_command.KINDS)


@pytest.fixture
def new(tmp_path, monkeypatch, capsys):
    """`new("words", ...)` in an empty folder: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def new(*argv):
        code = cli.main(["new", *argv])
        return code, capsys.readouterr()

    return new


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of each kind, {its name: its folder}, and the environment in which all count as installed.

    Beside their code lies the metadata that pip would write; a pip of its own would take seconds a package.
    """
    into = tmp_path_factory.mktemp("new")
    folders = {f"my-{kind}": into / f"cookbook-plugin-my-{kind}" for kind in KINDS}
    for kind, (name, folder) in zip(KINDS, folders.items(), strict=True):
        assert cli.main(["new", name, "--kind", kind, "--into", str(into)]) == 0
        _install(folder)
    paths = [*(str(folder / "src") for folder in folders.values()), os.environ.get("PYTHONPATH", "")]
    return folders, os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def _install(folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in project["dependencies"])
    head = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(f"{head}License-Expression: {project['license']}\n{needs}")
    points = "".join(f"{k} = {v}\n" for k, v in project["entry-points"]["cookbook"].items())
    (info / "entry_points.txt").write_text(f"[cookbook]\n{points}")


def call(env, *words):
    """What Python prints, with warnings as errors."""
    done = subprocess.run([sys.executable, "-W", "error", *words], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_is_listed_without_a_problem(packages):
    folders, env = packages
    plugins = json.loads(call(env, "-m", "cookbook.cli", "plugins", "--json"))
    own = {plugin["namespace"]: plugin for plugin in plugins if plugin["namespace"] in folders}
    assert [(own[name]["status"], own[name]["problems"]) for name in folders] == [("ok", [])] * len(KINDS)
    for kind, name in zip(KINDS, folders, strict=True):
        ids = {(row["kind"], row["id"]) for row in own[name]["rows"]}
        assert ids >= {(row, f"{name}/{new_command.KINDS[kind][0]}") for row in ("env", "recipe")}


def test_every_kind_passes_its_own_tests(packages):
    folders, env = packages
    call(env, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *map(str, folders.values()))


def test_every_kind_passes_the_check(packages):
    folders, env = packages
    code = (
        f"import sys; from cookbook.cli import main; sys.exit(max(main(['check', n]) for n in {[*folders]}))"
    )
    assert call(env, "-c", code).count("none failed") == len(KINDS)


def test_every_kind_trains_a_step_by_its_own_recipe(packages, tiny_model, tmp_path):
    folders, env = packages
    here = ["--local", f"model={tiny_model}", "renderer=core/smollm2", "backend.dtype=float32", "steps=1"]
    small = ["groups_per_step=2", "group_size=2", "max_tokens=4", "eval_every=0"]
    ids = [f"{name}/{new_command.KINDS[kind][0]}" for kind, name in zip(KINDS, folders, strict=True)]
    runs = [["run", id, *here, *small, "--name", id.replace("/", "-")] for id in ids]
    code = f"import sys; from cookbook.cli import main; sys.exit(max(main(argv) for argv in {runs}))"
    call(env | {"COOKBOOK_RUNS": str(tmp_path)}, "-c", code)
    for id in ids:
        (row,) = read_rows(tmp_path / id.replace("/", "-"))
        assert 0 <= row["reward"] <= 1


def test_nothing_of_the_scaffold_is_left_in_what_is_written(packages):
    for folder in packages[0].values():
        paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
        assert not [path for path in paths if "xnamex" in path.name]
        text = "".join(path.read_text() for path in paths if path.is_file())
        assert not [word for word in ("xnamex", "xenvx", "NotImplemented", "TODO") if word in text]


def test_what_is_written_is_in_step_with_this_core():
    project = tomllib.loads((SCAFFOLD / "common" / "pyproject.toml").read_text())["project"]
    own = tomllib.loads((ROOT / "plugins" / "math" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [n for n in own["dependencies"] if n.startswith(("cookbook", "chz"))]
    assert project["optional-dependencies"]["local"] == own["optional-dependencies"]["local"]
    assert (SCAFFOLD / "common" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert cookbook.__version__.startswith("0.1.")


def test_the_single_turn_environment_is_fifteen_lines():
    text = (SCAFFOLD / "single_turn" / "src" / "cookbook_plugin_xnamex" / "env.py").read_text()
    body = text[text.index("@chz.chz") :].splitlines()
    code = [line for line in body if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) <= 15


def test_the_commands_it_prints_can_be_pasted(new, tmp_path):
    (tmp_path / "a b").mkdir()
    code, said = new("words", "--into", "a b")
    assert code == 0
    assert "  pip install -e 'a b/cookbook-plugin-words[test]'\n" in said.out
    assert "  pytest 'a b/cookbook-plugin-words'\n" in said.out
    assert "  cookbook run core/rl env=words/last-word --local steps=20\n" in said.out


def test_every_file_that_it_names_is_there(new, tmp_path):
    for kind in KINDS:
        _, said = new("words", "--kind", kind, "--into", str(tmp_path))
        folder = tmp_path / "cookbook-plugin-words"
        listed = said.out.partition("next:")[0].splitlines()[1:]
        assert listed and all((folder / line.split()[0]).is_file() for line in listed)
        folder.rename(tmp_path / kind)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["Words"], "`cookbook new words`, say"),
        (["my words"], "`cookbook new my-words`, say"),
        (["7words"], "`cookbook new words`, say"),
        (["../words"], "`cookbook new words`, say"),
        (["words-"], "no sign last"),
        (["w" * 41], "at most 40"),
        (["wörter"], "can't be a namespace"),
        ([""], "can't be a namespace"),
        (["core"], "is that of cookbook-core"),
        (["math"], "is that of cookbook-plugin-math"),
        (["run"], "a command of cookbook itself"),
        (["words", "more"], "takes one name"),
        (["--kind", "tools"], "takes one name"),
        (["words", "--kind", "other"], "single-turn, multi-turn, tools, two-seats"),
        (["words", "--into", "nowhere"], "no such folder"),
        (["words", "--kind"], "--kind needs a value"),
        (["words", "--force"], "no flag '--force'"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(new, tmp_path, argv, why):
    code, said = new(*argv)
    assert code == 2 and why in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["class", "json", "test", "x", "a_b-c9"])
def test_words_of_python_are_names_like_others(new, tmp_path, name):
    assert new(name)[0] == 0
    for path in (tmp_path / f"cookbook-plugin-{name}").rglob("*.py"):
        compile(path.read_text(), path.name, "exec")


def test_a_namespace_of_the_same_module_is_taken(new, monkeypatch):
    monkeypatch.setitem(new_command.hints.SHIPPED, "my_words", "cookbook-plugin-my-words")
    code, said = new("my-words")
    assert code == 2 and "namespace my_words is that of cookbook-plugin-my-words" in said.err


def test_a_folder_that_is_there_is_left_alone(new, tmp_path):
    (tmp_path / "cookbook-plugin-words").mkdir()
    code, said = new("words")
    assert code == 2 and "is there already" in said.err
    assert not list((tmp_path / "cookbook-plugin-words").iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_nothing(new, tmp_path, monkeypatch, error):
    done = []

    def write(path, data, original=files.write):
        if len(done) == 3:
            raise error
        done.append(original(path, data))

    monkeypatch.setattr(files, "write", write)
    code, said = new("words")
    assert code in (1, 130) and said.err.count("\n") == 1
    assert len(done) == 3 and not list(tmp_path.iterdir())


def test_help_says_what_each_kind_is(new):
    assert new()[1].out == new("--help")[1].out == new_command.HELP
    assert all(kind in new_command.HELP for kind in KINDS)
