"""The command line, in this process wherever that is as good."""

import contextlib
import fcntl
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import cookbook
from cookbook import registry
from cookbook.cli import COMMANDS, main
from cookbook.configs import settle
from cookbook.provenance import drift, provenance
from cookbook.registry import Registry
from cookbook.runs import Run, read_record, read_rows

SMALL = ["env=math/arithmetic", "env.examples=0", "renderer=core/chatml"]
SMALL += ["steps=2", "groups_per_step=2", "group_size=2", "max_tokens=4", "eval_tasks=2"]
HEAVY = {"numpy", "tinker", "torch", "transformers", "datasets", "sympy", "chz", "rich", "tokenizers"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty machine: no key, no model, no runs; the current folder is empty too."""
    for name in ("COOKBOOK_RUNS", "COOKBOOK_DISABLE_PLUGINS", "TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COOKBOOK_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = set(sys.modules)
    yield tmp_path / "here"
    for name in set(sys.modules) - before:
        if name.startswith("made_up"):
            del sys.modules[name]


@pytest.fixture
def cook(capsys):
    """`cook(word, ...)`: the exit code and what was printed."""

    def cook(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err, lines=said.out.splitlines())

    return cook


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(namespace, code)`: one more plugin; `install()`: none but core."""

    def install(namespace=None, code="", keep=("core",)):
        points = [p for p in metadata.entry_points(group="cookbook") if p.name in keep]
        if namespace:
            package = tmp_path / "site" / f"made_up_{namespace}"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(textwrap.dedent(code))
            info = tmp_path / "site" / f"dist_{namespace}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{namespace}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[cookbook]\n{namespace} = made_up_{namespace}\n")
            monkeypatch.syspath_prepend(tmp_path / "site")
            importlib.invalidate_caches()
            for dist in metadata.distributions(path=[str(tmp_path / "site")]):
                points += dist.entry_points
        made = Registry(points)
        monkeypatch.setattr(registry, "default", lambda: made)

    return install


def local(folder) -> list[str]:
    return ["backend=local/torch", "backend.dtype=float32", f"model={folder}"]


def test_help_names_every_command(cook):
    for argv in ((), ("--help",), ("-h",), ("help",)):
        done = cook(*argv)
        assert (done.code, done.err) == (0, "")
        assert all(f"\n  {name} " in done.out for name in COMMANDS)
    assert cook("--version").out == f"{cookbook.__version__}\n"


def test_list_shows_what_there_is_and_who_provides_it(cook):
    done = cook("list")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].split() == ["kind", "id", "summary", "needs", "from"]
    cells = [line.split() for line in done.lines[1:]]
    assert ["env", "math/arithmetic"] in [c[:2] for c in cells]
    tinker = next(line for line in done.lines if "core/tinker" in line)
    assert tinker.endswith(f"TINKER_API_KEY  cookbook-core {cookbook.__version__}")
    assert cells[0][1].startswith("core/")


def test_list_of_a_kind_shows_only_that(cook):
    done = cook("list", "env")
    assert done.lines[0].split() == ["id", "summary", "needs", "from"]
    names = {line.split()[0] for line in done.lines[1:]}
    assert {"math/arithmetic", "reasoning/gym"} <= names
    assert all(name.startswith(("math/", "reasoning/")) for name in names)
    assert cook("list", "dataset").code == 0


def test_lists_are_json_for_programs(cook):
    rows = json.loads(cook("list", "--json").out)
    assert {(row["kind"], row["id"]) for row in rows} >= {("env", "math/arithmetic"), ("recipe", "core/rl")}
    only = json.loads(cook("list", "backend", "--json").out)
    assert [row["id"] for row in only] == ["core/tinker", "local/torch"]
    plugins = json.loads(cook("plugins", "--json").out)
    assert [(p["namespace"], p["status"]) for p in plugins[:1]] == [("core", "ok")]
    assert [row for plugin in plugins for row in plugin["rows"]] == rows


def test_plugins_shows_each_with_its_dist(cook):
    done = cook("plugins")
    assert (done.code, done.err) == (0, "")
    assert f"math: cookbook-plugin-math {metadata.version('cookbook-plugin-math')}, ok, 17 rows" in done.lines


SHOWN = {
    "env:math/arithmetic": ["cookbook_plugin_math/arithmetic.py:", "digits", "2 (default)", "of each number"],
    "math/arithmetic": ["env math/arithmetic: ", "recipe math/arithmetic: ", "  lr=0.0003", "--help`"],
    "core/rl": ["recipe core/rl: ", "code cookbook.rl:recipe", "`cookbook run core/rl --help`"],
    "core/smollm2": ["options of this row", "SmolLM", "called as ChatML(tokenizer"],
    "chatml": ["renderer core/chatml: ", "cookbook/rendering/chatml.py:"],
    "core/tinker": ["backend core/tinker: ", "needs TINKER_API_KEY", "base_url", "None (default)"],
    "math/integer": ["grader math/integer: ", "cookbook_plugin_math/integer.py:"],
    "local/setup": ["command local/setup: ", "setup_command.py:"],
}


@pytest.mark.parametrize("id", SHOWN)
def test_show_tells_what_a_row_is_and_where_its_code_is(cook, id):
    done = cook("show", id)
    assert (done.code, done.err) == (0, "")
    assert [part for part in SHOWN[id] if part not in done.out] == []


def test_help_of_a_recipe_shows_each_value_and_where_it_is_from(cook):
    done = cook("run", "math/arithmetic", "lr=2e-4", "--local", "--help")
    lines = {line.split()[0]: " ".join(line.split()) for line in done.lines if line}
    assert (done.code, done.err, done.lines[0].split(":")[0]) == (0, "", "math/arithmetic")
    assert "2e-4 (from command line)" in lines["lr"]
    assert "50 (from recipe)" in lines["steps"]
    assert "local/torch (from local)" in lines["backend"]
    assert "0 (default)" in lines["seed"]
    assert "\x1b" not in done.out


def test_a_dry_run_shows_exact_tokens_and_the_cost_and_writes_nothing(cook, home, tiny_model, tokenizer):
    done = cook("run", "core/rl", *SMALL, *local(tiny_model), "--dry-run")
    assert (done.code, done.err) == (0, "")
    table = done.lines[3 : done.lines.index("", 3)]
    ids = [int(line.split()[0]) for line in table]
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert {line.split()[1] for line in table} == {"0.0"}
    assert done.lines[0].startswith(f"the first prompt: {len(ids)} tokens")
    assert "a step: 2 tasks x 2 tables = 4 episodes" in done.out
    assert "at most 16 tokens (4 each)" in done.out
    assert list(home.iterdir()) == []


USAGE = {
    ("frob",): "there is no command 'frob'; `cookbook --help` shows them",
    ("frob", "nicate"): "there is no command 'frob'",
    ("list", "envs"): "there is no kind 'envs'; the kinds are env, grader",
    ("list", "env", "grader"): "takes one kind",
    ("list", "--yaml"): "there is no flag '--yaml'",
    ("plugins", "math"): "takes no 'math'",
    ("plugins", "--yaml"): "there is no flag '--yaml'",
    ("runs", "x"): "takes no 'x'",
    ("show",): "takes one id",
    ("show", "a", "b"): "takes one id",
    ("show", "math/arithmetics"): "did you mean math/arithmetic?",
    ("show", "evn:math/arithmetic"): "begins with no kind",
    ("run",): "needs a recipe's id first; `cookbook list recipe`",
    ("run", "steps=3"): "needs a recipe's id first",
    ("run", "core/rl", "--frob"): "there is no flag '--frob'",
    ("run", "core/rl", "--name"): "--name needs a value",
    ("run", "core/rl", "steps=many", "--help"): "steps: Could not cast 'many' to int",
    ("local", "set"): "there is no command local/set: did you mean local/setup?",
    ("math", "nothing"): "there is no command math/nothing",
}


@pytest.mark.parametrize("argv", USAGE, ids=" ".join)
def test_what_no_command_knows_is_one_line_and_exit_code_2(cook, argv):
    done = cook(*argv)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert done.err.startswith("cookbook: ")
    assert USAGE[argv] in done.err


BAD_RUNS = {  # what is typed after `run`: what is answered
    ("math/nothing",): "there is no recipe math/nothing",
    ("math/arithmetics",): "there is no recipe math/arithmetics: did you mean math/arithmetic?",
    ("env:math/arithmetic",): "env:math/arithmetic is no recipe",
    ("math/arithmetic",): "run `cookbook local setup`",
    ("math/arithmetic", "--local"): "run `cookbook local setup`",
    ("core/rl", "--local"): "env not given: add env=...",
    ("core/rl", *SMALL): "model not given: add model=...",
    ("core/rl", *SMALL, "MODEL", "lr=fast"): "lr: Could not cast 'fast' to float",
    ("core/rl", *SMALL, "MODEL", "steps=5"): "'steps' is given twice: '2' and '5'; keep one",
    ("core/rl", *SMALL, "MODEL", "stepz=5"): "there is no option 'stepz'; did you mean 'steps'?",
    ("core/rl", *SMALL, "MODEL", "lr"): "'lr' isn't key=value",
    ("core/rl", *SMALL, "MODEL", "env.digits=0"): "digits=0: must be from 1 to",
    ("core/rl", *SMALL, "MODEL", "lr=nan"): "lr=nan: must be in [0, 1)",
    ("core/rl", *SMALL, "MODEL", "lr=1"): "lr=1.0: must be in [0, 1)",
    ("core/rl", *SMALL, "MODEL", "lora_rank=0"): "lora_rank=0: must be 1 or more",
    ("core/rl", *SMALL, "MODEL", "max_lag=-1"): "max_lag=-1: must be 0 or more",
    ("core/rl", *SMALL, "MODEL", "eval_temperature=-1"): "eval_temperature=-1.0: must be",
    ("core/rl", *SMALL, "MODEL", "advantage=best"): "advantage='best': must be one of mean",
    ("core/rl", *SMALL, "MODEL", "loss=least"): "loss: Could not cast 'least'",
    ("core/rl", *SMALL, "MODEL", "limits.max_turns=0"): "limits.max_turns=0: must be more than 0",
    ("core/rl", *SMALL, "MODEL", "backend.threads=-1"): "threads=-1: must be from 0 to",
    ("core/rl", *SMALL, "MODEL", "trackers.0=math/integer"): "there is no tracker math/integer",
    ("core/rl", *SMALL, "MODEL", "--name", "../x"): "--name '../x': must be letters",
    ("core/rl", *SMALL, "backend=local/torch", "model=made-up"): "neither a folder here nor a name",
    ("core/rl", "env=math/arithmetic", "renderer=core/chatmel", "MODEL"): "did you mean core/chatml?",
    ("core/rl", "env=math/arithmetic", "MODEL"): "no plugin knows the chat format of model",
    ("core/rl", "env=made_up_nowhere:Env", "MODEL"): "No module named 'made_up_nowhere'",
}


@pytest.mark.parametrize("argv", BAD_RUNS, ids=lambda argv: " ".join(w for w in argv if w not in SMALL))
def test_a_run_that_cannot_be_is_one_line_and_leaves_no_folder(cook, home, tiny_model, argv):
    words = [w for word in argv for w in (local(tiny_model) if word == "MODEL" else [word])]
    done = cook("run", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert BAD_RUNS[argv] in done.err
    assert list(home.iterdir()) == []


def test_without_a_key_the_line_says_how_to_get_one_and_that_local_needs_none(cook, home, tiny_model):
    done = cook("run", "core/rl", *SMALL, f"model={tiny_model}")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "set TINKER_API_KEY" in done.err
    assert "--local" in done.err
    assert list(home.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A whole run in an empty folder: its exit code, output, folder, and what was typed."""
    here = tmp_path_factory.mktemp("work")
    argv = [
        "core/rl",
        *SMALL,
        *local(tiny_model),
        "--name",
        "x",
        "evals.0=math/arithmetic",
        "evals.0.digits=1",
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(here)
        patch.delenv("COOKBOOK_RUNS", raising=False)
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(["run", *argv])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), here=here, argv=argv)


def test_a_whole_run_ends_well_in_plain_lines(finished):
    lines = finished.out.splitlines()
    assert (finished.code, finished.err) == (0, "")
    assert lines[0] == lines[-1] == f"run {os.path.join('runs', 'x')}"
    for start in (
        "on device cpu, dtype float32",
        "step 1/2  ",
        "step 2/2  ",
        "eval of version 2: correct ",
        "eval.0 of ver",
    ):
        assert [line for line in lines if line.startswith(start)], start
    assert not set("\x1b\r") & set(finished.out)


def test_a_record_says_all_that_a_run_came_from(finished, tiny_model):
    record = read_record(finished.here / "runs" / "x")
    core, math, own = (
        f"{d} {metadata.version(d)}"
        for d in ("cookbook-core", "cookbook-plugin-math", "cookbook-plugin-local")
    )
    assert (record["recipe"], record["argv"], record["renderer"]["id"]) == (
        "core/rl",
        finished.argv,
        "core/chatml",
    )
    assert (record["status"], record["last_step"]) == ("done", 2)
    assert record["started"] <= record["ended"]
    config = {"env": "math/arithmetic", "env.digits": 2, "env.examples": 0, "evals.0": "math/arithmetic"}
    config |= {"evals.0.digits": 1, "backend": "local/torch", "seed": 0, "steps": 2, "model": str(tiny_model)}
    assert config.items() <= record["config"].items()
    assert record["plugins"] == {
        "recipe:core/rl": core,
        "env:math/arithmetic": math,
        "backend:local/torch": own,
    }
    assert record["versions"].keys() >= {"cookbook-core", "python", "tinker", "chz", "tokenizers", "numpy"}
    assert record["backend"]["dtype"] == "float32"
    assert record["git"] is None


def test_a_run_has_a_row_a_step_and_a_row_an_evaluation(finished):
    steps = read_rows(finished.here / "runs" / "x")
    assert [(row["step"], row["version"], row["n"]) for row in steps] == [(0, 0, 4), (1, 1, 4)]
    assert all("reward" in row and "eval/n" not in row for row in steps)
    evals = read_rows(finished.here / "runs" / "x", "evaluations.jsonl")
    assert [(row["version"], row["eval/n"], row["eval.0/n"]) for row in evals] == [(0, 2, 2), (2, 2, 2)]
    assert all("eval/correct" in row and "reward" not in row for row in evals)


def test_a_run_keeps_transcripts_with_their_tokens(finished, tokenizer):
    rows = read_rows(finished.here / "runs" / "x", "episodes.jsonl")
    assert [(r["step"], r["group"], r["episode"]) for r in rows] == [
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (1, 0, 1),
    ]
    for row in rows:
        (turn,) = row["turns"]
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        assert row["messages"][0]["content"] in tokenizer.decode(turn["prompt_T"])
        assert len(turn["tokens_T"]) == len(turn["logprobs_T"]) <= 4
        assert (row["version"], row["reward"] in (0.0, 1.0)) == (row["step"], True)


def test_a_checkpoint_row_says_where_the_other_files_stood(finished):
    folder = finished.here / "runs" / "x"
    (row,) = read_rows(folder, "checkpoints.jsonl")
    assert (row["step"], row["path"]) == (2, "tinker://x/weights/000002")
    # The rows of both steps and of the first evaluation; the last evaluation begins after the checkpoint.
    assert row["rows"] == {"metrics.jsonl": 2, "evaluations.jsonl": 1, "episodes.jsonl": 4}
    assert [len(read_rows(folder, name)) for name in row["rows"]] == [2, 2, 4]
    assert (folder / "weights" / "000002").is_dir()


def test_runs_lists_a_finished_run(finished, cook, monkeypatch):
    monkeypatch.setenv("COOKBOOK_RUNS", str(finished.here / "runs"))
    done = cook("runs")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].split() == ["run", "status", "step", "correct", "reward", "nll"]
    assert done.lines[1].split()[:3] == ["x", "done", "2"]


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(finished, cook, monkeypatch, tiny_model):
    monkeypatch.setenv("COOKBOOK_RUNS", str(finished.here / "runs"))
    before = sorted(finished.here.rglob("*"))
    done = cook("run", "core/rl", *SMALL, *local(tiny_model), "--name", "x")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "x is there already: choose another --name" in done.err
    assert sorted(finished.here.rglob("*")) == before


def test_runs_says_where_it_looked_when_there_are_none(cook):
    done = cook("runs")
    assert (done.code, done.out) == (0, "")
    assert "no runs in runs yet; `cookbook run math/arithmetic` makes one" in done.err


def test_runs_lists_what_failed_or_was_killed_too(cook):
    for at, name in enumerate(("killed", "failed")):
        run = Run(Path("runs") / name, {}, now=lambda at=at: at)
        run.begin()
        run.log(0, {"reward": 0.5, "correct": 0.25})
        run.evaluation(1, {"eval/n": 1})
        if name == "failed":
            run.end("failed")
        else:
            with (run.folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 1, "rew')
            assert cook("runs").lines[1].split()[:2] == ["killed", "running"]
            os.close(run._lock)  # as the system does when a process ends, however it ends
    cells = [line.split() for line in cook("runs").lines[1:]]
    assert cells == [
        ["killed", "killed", "1", "0.250", "0.500"],
        ["failed", "failed", "1", "0.250", "0.500"],
    ]


@pytest.fixture
def runs(finished, monkeypatch):
    monkeypatch.setenv("COOKBOOK_RUNS", str(finished.here / "runs"))
    return finished.here / "runs"


def refused(done, line):
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert done.err.startswith("cookbook: ") and line in done.err


def test_a_run_that_is_done_is_not_resumed_and_the_line_says_what_to_do(cook, runs):
    done = cook("resume", "last")
    refused(done, "x is done; `cookbook run --from x load=x` trains its weights further")


def test_a_run_that_runs_elsewhere_is_not_resumed(cook, home, finished):
    shutil.copytree(finished.here / "runs" / "x", home / "runs" / "y")
    record = json.loads((home / "runs" / "y" / "record.json").read_text())
    (home / "runs" / "y" / "record.json").write_text(json.dumps(record | {"status": "running"}))
    with (home / "runs" / "y" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(cook("resume", "y"), "y is being run by another process; wait for it, or stop it")
        assert cook("runs").lines[1].split()[:2] == ["y", "running"]
    assert cook("runs").lines[1].split()[:2] == ["y", "killed"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["resume"], "takes one run and no options"),
        (["resume", "x", "lr=1e-3"], "takes one run and no options"),
        (["resume", "gone"], "there is no run 'gone'"),
        (["run", "--from", "gone"], "there is no run 'gone'"),
        (["run", "core/rl", "--from", "x"], "takes the recipe and its place from RUN; leave them out"),
        (["run", "--from", "x", "--local"], "takes the recipe and its place from RUN; leave them out"),
        (["run", "--from", "x", "stepz=3"], "there is no option 'stepz'; did you mean 'steps'?"),
        (["run", "--from"], "--from needs a value"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(cook, runs, argv, line):
    refused(cook(*argv), line)


def test_a_new_run_of_another_has_its_options_and_names_what_has_drifted(cook, home, runs, finished):
    (home / "runs").mkdir()
    shutil.copytree(runs / "x", home / "runs" / "x")
    record = read_record(home / "runs" / "x")
    record["versions"]["numpy"] = "0.1"
    (home / "runs" / "x" / "record.json").write_text(json.dumps(record))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COOKBOOK_RUNS")
        done = cook("run", "--from", "x", "steps=0", "eval_every=0", "--name", "z")
    assert done.code == 0, done.err
    now = metadata.version("numpy")
    assert done.err == f"cookbook: since that run, numpy went from 0.1 to {now}\n"
    again = read_record(home / "runs" / "z")
    assert again["recipe"] == "core/rl" and again["status"] == "done"
    changed = {"steps": 0, "eval_every": 0}
    assert again["config"] == record["config"] | changed


def test_drift_names_each_plugin_version_and_revision_that_changed(finished):
    row = registry.find("recipe", "core/rl")
    values = {"env": "math/arithmetic", "model": "m", "backend": "core/tinker"}
    settled = settle(row.load()().target, [("test", values)])
    record = provenance(row, [], settled)
    assert drift(row, settled, record) == []
    old = json.loads(json.dumps(record))
    old["plugins"]["env:math/arithmetic"] = "other-dist 9"
    old["plugins"]["env:gone/env"] = "gone 1"  # not in this run: nothing to compare
    old["versions"] |= {"python": "3.0", "made-up": "1"}
    old["git"] = {"revision": "0123456789abcdef", "dirty": True}
    here, git = record["plugins"]["env:math/arithmetic"], record["git"]
    revision = git["revision"][:12] + (" with changes" if git["dirty"] else "") if git else "no revision"
    assert drift(row, settled, old) == [
        f"env:math/arithmetic went from other-dist 9 to {here}",
        f"python went from 3.0 to {record['versions']['python']}",
        f"the code went from 0123456789ab with changes to {revision}",
    ]


def test_a_checked_option_is_told_in_the_configs_own_words(cook, tiny_model):
    done = cook("run", "core/rl", *SMALL, *local(tiny_model), "limits.max_turns=0")
    assert done.err == "cookbook: limits.max_turns=0: must be more than 0\n"


CURSED = """
    import chz
    from cookbook import EnvConfig, Message, Step

    played = []

    class Cursed:
        async def start(self):
            return [Message(role="user", content="hi")]

        async def step(self, reply):
            played.append(reply)
            return Step(float("nan") if len(played) > 2 else 1.0, done=True)

    class Task:
        def table(self):
            return [Cursed()]

    @chz.chz(typecheck=True)
    class Curse(EnvConfig):
        def tasks(self, split):
            return [Task()]
"""


def test_an_env_whose_reward_is_no_number_fails_the_run_by_name(cook, home, tiny_model):
    (home / "made_up_curse.py").write_text(textwrap.dedent(CURSED))
    small = [w for w in SMALL if not w.startswith(("env", "groups"))]
    words = ["env=made_up_curse:Curse", "groups_per_step=1", "eval_every=0", *small, *local(tiny_model)]
    done = cook("run", "core/rl", *words, "--name", "nan")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "Cursed gave the reward nan: a reward is a finite number, or None for no verdict" in done.err
    folder = home / "runs" / "nan"
    record = read_record(folder)
    assert (record["status"], record["last_step"]) == ("failed", 1)
    assert record["error"].startswith("EnvError: Cursed gave the reward nan")
    assert record["config"]["env"] == "made_up_curse:Curse"
    assert record["plugins"].keys() == {"recipe:core/rl", "backend:local/torch"}
    for name, n in (("metrics.jsonl", 1), ("episodes.jsonl", 2), ("checkpoints.jsonl", 0)):
        text = (folder / name).read_text()
        assert (text == "" or text.endswith("\n"), len(read_rows(folder, name))) == (True, n)
    assert "NaN" not in (folder / "metrics.jsonl").read_text()


RECIPE = """
    from cookbook import hookimpl

    @hookimpl
    def register_recipes(register):
        register("sums", "made_up_shop:sums", "Three digits")

    def sums():
        from cookbook import preset
        from cookbook.rl import RLConfig

        return preset(RLConfig, name="shop/sums", env="math/arithmetic", **{"env.digits": 3})
"""


def test_values_that_another_id_makes_void_are_told(cook, home, install, tiny_model):
    install("shop", RECIPE, keep=("core", "local", "math"))
    (home / "made_up_curse.py").write_text(textwrap.dedent(CURSED))
    words = ["run", "shop/sums", *SMALL[2:], *local(tiny_model), "--dry-run"]
    assert cook(*words).err == ""
    done = cook(*words, "env=made_up_curse:Curse")
    assert done.code == 0
    assert done.err == "cookbook: env.digits=3 of the recipe was for env=math/arithmetic, dropped\n"


COMMAND = """
    from cookbook import hookimpl

    @hookimpl
    def register_commands(register):
        register("hello", "made_up_greet:hello", "Greets")

    def hello(argv):
        print("hello", *argv)
        return len(argv)
"""


def test_a_plugins_own_command_gets_its_words_and_gives_the_exit_code(cook, install):
    install("greet", COMMAND)
    done = cook("greet", "hello", "a", "--b", "c=d")
    assert (done.code, done.out, done.err) == (3, "hello a --b c=d\n", "")
    assert cook("greet", "hello").code == 0


def test_a_command_of_a_plugin_that_is_not_installed_says_what_to_install(cook, install):
    install()
    done = cook("local", "setup")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("cookbook-plugin-local isn't installed; pip install cookbook-plugin-local\n")


def test_a_command_of_a_plugin_that_is_left_out_says_so(cook, monkeypatch):
    monkeypatch.setenv("COOKBOOK_DISABLE_PLUGINS", "local")
    made = Registry.scan()
    monkeypatch.setattr(registry, "default", lambda: made)
    done = cook("local", "setup")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is disabled: COOKBOOK_DISABLE_PLUGINS names local; take it out" in done.err


def test_a_broken_plugin_stops_no_list_and_is_named(cook, install):
    install("broken", "1 / 0", keep=("core", "math"))
    done = cook("list", "env")
    assert done.code == 0 and any(line.startswith("math/arithmetic ") for line in done.lines)
    assert done.err == "not loaded: broken; `cookbook plugins` says why\n"
    done = cook("plugins")
    assert done.code == 0
    at = done.lines.index("broken: dist-broken 1.0, broken, 0 rows")
    assert "ZeroDivisionError: division by zero" in done.lines[at + 1]
    done = cook("broken", "hello")
    assert (done.code, "dist-broken 1.0 is broken: " in done.err) == (2, True)
    assert json.loads(cook("list", "--json").out)


def test_a_recipe_that_gives_no_blueprint_is_named(cook, install):
    code = """
        from cookbook import hookimpl

        @hookimpl
        def register_recipes(register):
            register("odd", "builtins:dict", "No recipe")
            register("gone", "made_up_greet:nothing", "No target")
    """
    install("greet", code)
    assert (
        cook("run", "greet/odd").err
        == "cookbook: recipe greet/odd of dist-greet gave dict, not a chz.Blueprint\n"
    )
    done = cook("run", "greet/gone")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "can't import made_up_greet:nothing" in done.err


def test_an_interrupt_is_one_line_and_exit_code_130(cook, monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "list", interrupt)
    done = cook("list")
    assert (done.code, done.err) == (130, "cookbook: interrupted\n")


def test_list_imports_nothing_slow():
    script = "import sys; from cookbook.cli import main; main(['list']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()} & HEAVY


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["list"], ["list", "--json"]])
def test_a_reader_that_goes_away_is_no_error(argv, unbuffered):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cookbook.cli", *argv],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=write,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_the_terminal_cannot_show_ends_nothing(home, tiny_model):
    words = [*(word for word in SMALL if word != "steps=2"), "steps=0", *local(tiny_model), "--name", "x"]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) as out:
        assert main(["run", "core/rl", *words]) == 0
        assert b"eval of version 0: correct 0.000 ? 0.000" in out.buffer.getvalue()
    assert read_record(home / "runs" / "x")["status"] == "done"
