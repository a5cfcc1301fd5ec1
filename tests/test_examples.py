"""Each example runs as its header says, on a table or the tiny model in place of the embedded one."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cookbook import cli, registry
from cookbook.errors import ConfigError, RendererError
from cookbook.rendering import get_renderer
from cookbook.rollout import Limits
from cookbook.runs import read_rows
from cookbook.testing import byte_tokenizer, check_env, play, play_table

EXAMPLES = Path(__file__).parents[1] / "examples"
MINIMAL = EXAMPLES / "plugin-minimal"
NAMES = sorted(p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", "") and p.name != "__pycache__")
TABLE = {"backend": "cookbook.testing:Tabular", "model": "table", "renderer": "core/chatml"}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """In the folder of the examples, runs elsewhere."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def commands(text: str) -> list[list[str]]:
    """The commands of a header or a page, without comments."""
    lines = re.findall(r"^ {4}((?:cookbook|python) (?:.*\\\n)*.*)", text, re.M)
    return [shlex.split(line.replace("\\\n", " "), comments=True) for line in lines]


def run(command: list[str], **instead) -> int:
    """`cookbook run` as it is written, but for these options and --local."""
    assert command[:2] == ["cookbook", "run"]
    words = [word for word in command[1:] if word != "--local" and word.split("=")[0] not in instead]
    return cli.main([*words, *(f"{name}={value}" for name, value in instead.items()), "--name", "x"])


def rows(tmp_path):
    return read_rows(tmp_path / "x")


def header(name: str) -> list[list[str]]:
    return commands(importlib.import_module(name).__doc__)


def opening(task) -> str:
    """What the first seat is asked first."""
    told = []
    play_table(task, [lambda text, seed: told.append(text) or "?"] * getattr(task, "seats", 1))
    return told[0]


def audit(env, wrong=("", "?", "7" * 3000, "²", "\ud800", "1", "the same")):
    """Splits that share no opening, tasks that pickle, answers that win, and replies that don't."""
    train, test = env.tasks("train"), env.tasks("test")
    assert len(train) and len(test) and not {*map(opening, train)} & {*map(opening, test)}
    least, most = env.reward_range
    for task in [*train[:6], *test[:3]]:
        task = pickle.loads(pickle.dumps(task))
        answers = [lambda text, seed, t=task: t.oracle([{"content": text}])] * getattr(task, "seats", 1)
        assert play_table(task, answers)[0].reward == most
        for reply in (*wrong, opening(task)):
            for episode in play_table(
                task, [lambda *_, r=reply: r, *answers[1:]], limits=Limits(max_turns=9)
            ):
                assert episode.reward is None or least <= episode.reward <= most
                assert episode.seat or episode.reward is None or episode.reward < most
    with pytest.raises(KeyError):
        env.tasks("dev")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_stands_in_the_index_and_is_run_by_a_test(name):
    assert f"]({name})" in (EXAMPLES / "README.md").read_text()
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    word = name.removesuffix(".py").replace("-", "_")
    assert any(re.search(rf"^def test_{word}_", text, re.M) for text in tests), f"no test_{word}_..."


# Environments


def test_multi_turn_plays_and_keeps_the_rules(tmp_path):
    (command,) = header("multi_turn")
    assert run(command, **TABLE, steps=2, max_tokens=4) == 0
    assert 1 <= rows(tmp_path)[0]["env/guesses"] <= 3
    env = importlib.import_module("multi_turn").Guessing()
    audit(env)
    task = env.tasks("train")[0]
    episode = play(task, [str(task.low - 1), "x", str(task.number)])
    said = [message["content"] for message in episode.messages]
    assert episode.reward == 1.0 and said[2::2] == ["Higher.", "That is no number."]
    with pytest.raises(ConfigError, match="tries=0"):
        type(env)(tries=0)


def test_two_seats_learns_to_play_by_the_rules(tmp_path):
    """At first most of the first moves are illegal, and the second seat has no verdict; in the end few."""
    (command,) = header("two_seats")
    small = {"backend.letters": "123456", "env.most": 7, "groups_per_step": 2, "group_size": 16}
    assert run(command, **TABLE, **small, max_tokens=2, lr=0.2, steps=25, eval_every=0) == 0
    undecided = [row["undecided"] / 32 for row in rows(tmp_path)]
    assert undecided[0] > 0.7 and np.mean(undecided[-5:]) < 0.3
    assert rows(tmp_path)[0]["turns"] < rows(tmp_path)[-1]["turns"]


def test_two_seats_can_be_previewed_though_the_second_waits_for_the_first(capsys):
    (command,) = header("two_seats")
    table = [f"{name}={value}" for name, value in TABLE.items()]
    assert cli.main([*[word for word in command[1:] if word != "--local"], *table, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (
        "= 256 episodes" in out and "without the prompts of 128 seats that open once another has moved" in out
    )


def test_two_seats_keeps_the_rules_and_leaves_nobody_waiting():
    two_seats = importlib.import_module("two_seats")
    audit(two_seats.Nim())
    heap = two_seats.Heap(6)
    first, second = play_table(heap, [["2", "3"], ["1"]])
    assert (first.reward, second.reward) == (1.0, -1.0) and (first.correct, second.correct) == (True, False)
    first, second = play_table(heap, [["2", "0"], ["1"]])
    assert (first.reward, second.reward, first.stop_reason) == (-1.0, 1.0, "done")
    first, second = play_table(heap, [["4"], ["anything"]])
    assert (first.reward, second.reward) == (-1.0, None)
    first, second = play_table(heap, [["1", "1"], ["1", "1"]], limits=Limits(max_turns=1))
    assert {first.stop_reason, second.stop_reason} == {"max_turns", "table"}
    with pytest.raises(ConfigError, match="most=5"):
        two_seats.Nim(most=5)


def test_custom_grader_grades_by_parts_and_keeps_the_rules(tmp_path):
    first, second = header("custom_grader")
    assert run(first, **TABLE, steps=1, max_tokens=6) == 0
    shutil.rmtree(tmp_path / "x")
    assert run(second, **TABLE, steps=1, max_tokens=6) == 0
    config = json.loads((tmp_path / "x" / "record.json").read_text())["config"]
    assert config["env.grader.partial"] is False
    module = importlib.import_module("custom_grader")
    audit(module.Multiples(grader=module.Share()))
    grade = module.Share().grade([], {"role": "assistant", "content": "3, 9 and 4"}, (3, 6, 9))
    assert (grade.verdict, grade.reward, grade.detail) == ("wrong", 0.5, "2 of 3, and 1 others")
    assert module.Share(partial=False).grade([], {"content": "3"}, (3, 6)).reward == 0.0
    assert module.Share().grade([], {"content": "3"}, ()).verdict == "undecided"
    with pytest.raises(ConfigError, match="n=0"):
        module.Multiples(grader=module.Share(), n=0)


# Parts of a plugin


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """`install(namespace, module)`: a dist that names it, as pip would write it."""
    site = tmp_path_factory.mktemp("site")

    def install(namespace, module):
        info = site / f"dist_{namespace}-1.0.dist-info"
        info.mkdir()
        needs = "Requires-Dist: cookbook-core>=0.1,<0.2"
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: dist-{namespace}\nVersion: 1.0\n{needs}\n"
        )
        (info / "entry_points.txt").write_text(f"[cookbook]\n{namespace} = {module}\n")
        registry.default.cache_clear()

    monkeypatch.syspath_prepend(str(site))
    yield install
    registry.default.cache_clear()


def test_plugin_minimal_lists_runs_and_keeps_the_rules(tmp_path, install, monkeypatch, capsys):
    project = tomllib.loads((MINIMAL / "pyproject.toml").read_text())["project"]
    monkeypatch.syspath_prepend(str(MINIMAL / "src"))
    ((namespace, module),) = project["entry-points"]["cookbook"].items()
    install(namespace, module)
    for command in commands((MINIMAL / "README.md").read_text()):
        if command[:2] == ["cookbook", "show"]:
            assert (
                cli.main(command[1:]) == 0
                and "cookbook_plugin_capitals.envs:Words" in capsys.readouterr().out
            )
        elif command[0] == "cookbook":
            assert run(command, **TABLE, steps=1) == 0
    envs = importlib.import_module(f"{module}.envs")
    audit(envs.Words())
    lines = Path(envs.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 20
    assert (MINIMAL / "LICENSE").read_text() == (EXAMPLES.parent / "LICENSE").read_text()


def test_plugin_minimal_passes_its_own_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(MINIMAL / "src"))
    spec = importlib.util.spec_from_file_location("capitals_tests", MINIMAL / "tests" / "test_envs.py")
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    own = [test for name, test in vars(tests).items() if name.startswith("test_")]
    assert len(own) == 2
    for test in own:
        test()


def test_tool_using_passes_its_own_tests_and_the_check_and_trains(tmp_path, monkeypatch, tiny_model):
    folder = EXAMPLES / "tool-using"
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "src"))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    env = "cookbook_plugin_prices.basket:Basket"
    assert not check_env(env).findings
    here = {"backend": "local/torch", "backend.dtype": "float32", "model": tiny_model}
    sizes = {"groups_per_step": 1, "group_size": 2, "max_tokens": 8, "eval_every": 0}
    command = ["cookbook", "run", "core/rl", f"env={env}", "steps=1"]
    assert run(command, **here, **sizes, renderer="core/chatml_tools") == 0
    assert rows(tmp_path)[0]["env/tool_calls"] >= 0


def test_custom_renderer_prints_reads_and_is_found(tmp_path, install, capsys, tiny_model, monkeypatch):
    module = importlib.import_module("custom_renderer")
    module.main()
    out = capsys.readouterr().out
    assert "### Response:\n[Blue.<|endoftext|>]\n{'role': 'assistant', 'content': 'Blue.'}" in out
    module.main(str(tiny_model))
    assert capsys.readouterr().out == out
    (tmp_path / "plugin").mkdir()
    hook = re.search(r"    @hookimpl\n(?:    .*\n)+", module.__doc__)[0]
    code = "from cookbook import hookimpl\n\n" + "\n".join(line[4:] for line in hook.splitlines())
    (tmp_path / "plugin" / "made_up_alpaca.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    install("formats", "made_up_alpaca")
    options = {**TABLE, "renderer": "formats/alpaca", "steps": 1, "max_tokens": 3}
    assert run(["cookbook", "run", "core/rl", "env=multi_turn:Guessing"], **options) == 0
    renderer = get_renderer("formats/alpaca", byte_tokenizer())
    assert renderer.options == {} and renderer.id == "formats/alpaca"


def test_custom_renderer_goes_on_with_what_was_sampled():
    renderer = importlib.import_module("custom_renderer").Alpaca(byte_tokenizer())
    asked = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "### Response:\n<|endoftext|>"},
    ]
    more = [{"role": "user", "content": "And?"}]
    prompt = renderer.build_generation_prompt(asked).only_tokens()
    for said in ("Blue.", "", "\n\n### Instruction:\nx"):
        reply = {"role": "assistant", "content": said}
        whole = renderer.build_generation_prompt([*asked, reply, *more]).only_tokens()
        sampled = [*renderer.tokenizer.encode(said), 0]
        assert prompt + sampled + renderer.bridge(prompt + sampled, True, more) == whole
        assert renderer.parse_response(sampled).message == reply
    with pytest.raises(RendererError, match="no form for the role 'tool'"):
        renderer.build_generation_prompt([{"role": "tool", "content": "1"}])
    with pytest.raises(RendererError, match="no form for tools"):
        renderer.build_generation_prompt(asked, tools=[{"name": "x", "parameters": {}}])


def test_custom_backend_tells_each_sample_and_trains_as_the_inner_one(tmp_path, tiny_model):
    (command,) = header("custom_backend")
    small = {"model": tiny_model, "renderer": "core/chatml", "groups_per_step": 1, "eval_every": 0}
    assert run(command, **small, **{"backend.inner.dtype": "float32"}) == 0
    told = [json.loads(line) for line in (tmp_path / "x" / "samples.jsonl").read_text().splitlines()]
    assert len(told) == 2 * 8 and all(row["tokens"] <= 8 and row["seconds"] > 0 for row in told)
    watched = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows(tmp_path)]
    shutil.rmtree(tmp_path / "x")
    plain = [word for word in command if not word.startswith("backend.")]
    assert run(plain, **small, backend="local/torch", **{"backend.dtype": "float32"}) == 0
    bare = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows(tmp_path)]
    assert watched == bare


# The loop by hand


def test_first_loop_runs_on_the_tiny_model(tiny_model, capsys):
    assert importlib.import_module("first_loop").train(str(tiny_model), steps=1) == [0.0]
    assert "step  1  reward 0.000" in capsys.readouterr().out


@pytest.mark.embedded
def test_first_loop_shows_the_reward_rising():
    means = importlib.import_module("first_loop").train()
    assert np.mean(means[-5:]) > np.mean(means[:5]) + 0.2


def test_two_seats_stands_on_the_page_of_two_players_as_it_is():
    page = (EXAMPLES.parent / "docs" / "06-two-players.md").read_text()
    source = (EXAMPLES / "two_seats.py").read_text()
    (tested,) = re.findall(r"```python tested.*?\n(.*?)```", page, re.S)
    assert commands(source)[0] == commands(page.replace("cd examples && ", ""))[0]
    exec(tested, {"play_table": play_table, "Heap": importlib.import_module("two_seats").Heap})
