"""What `cookbook.testing` puts in a model's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import chz
import pytest
import tinker

from cookbook import EnvConfig, Grade, Question, Start, Step, cli
from cookbook.data import supervised_data, to_example
from cookbook.errors import BackendError, ConfigError, EnvError, RendererError
from cookbook.rendering import get_renderer
from cookbook.rollout import Limits
from cookbook.runs import read_rows
from cookbook.testing import ScriptedSampler, Tabular, byte_tokenizer, learn, play, play_table
from cookbook.testing.tabular import Table, TableSampler


class Guess:
    """A number from 1 to 8, as in the README."""

    def __init__(self, number):
        self.number = number

    async def start(self):
        return [{"role": "user", "content": "Guess."}]

    async def step(self, reply):
        if reply["content"] == str(self.number):
            return Step(1.0, done=True, correct=True)
        return Step(0.0, done=False, messages=[{"role": "user", "content": "No."}])


class Call:
    """Right when `add` is called."""

    async def start(self):
        tool = {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}
        return Start([{"role": "user", "content": "Add."}], tools=[tool])

    async def step(self, reply):
        calls = reply.get("tool_calls", ())
        return Step(float([call["function"]["name"] for call in calls] == ["add"]), done=True)


class Duel:
    """Two seats, each its own env; a seat that says more waits for nobody."""

    seats = 2

    def table(self):
        return [Guess(1), Guess(2)]


class Equal:
    def grade(self, prompt, reply, reference):
        return Grade(reply["content"] == reference)


# Scripts


def test_an_episode_is_played_with_the_replies_that_are_written():
    episode = play(Guess(5), ["3", "7", "5"])
    assert episode.reward == 1.0 and episode.correct and episode.stop_reason == "done"
    assert [m["content"] for m in episode.messages] == ["Guess.", "3", "No.", "7", "No.", "5"]
    assert play(Question("2 + 2", "4", Equal()), ["4"]).reward == 1.0


def test_what_isnt_over_after_the_last_reply_ends_there():
    episode = play(Guess(5), ["3"])
    assert (episode.reward, episode.stop_reason, len(episode.turns)) == (0.0, "max_turns", 1)


def test_a_script_may_be_a_function_of_the_prompt_and_the_seed():
    seen = []

    def reply(prompt, seed):
        seen.append(seed)
        return str(prompt.count("<|im_start|>assistant"))

    episode = play(Guess(4), reply)
    assert episode.reward == 1.0 and len(set(seen)) == 4
    assert play(Guess(9), reply, limits=Limits(max_turns=2)).stop_reason == "max_turns"


def test_a_reply_is_cut_where_the_room_ends():
    episode = play(Guess(123), ["123"], max_tokens=3)  # the stop is the fourth
    assert episode.reward == 1.0 and episode.stop_reason == "max_tokens" and not episode.turns[0].stopped


@pytest.mark.parametrize(
    "said", ["", " ", "<|im_end|>", "<think>x</think>", "<tool_call>{}</tool_call>", "é🙂\n\n"]
)
def test_an_environment_hears_a_text_as_it_is_written(said):
    episode = play(Guess(5), [said])
    assert episode.messages[1] == {"role": "assistant", "content": said}


def test_a_reply_may_be_a_message_that_calls_a_tool():
    function = {"name": "add", "arguments": "{}"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    assert play(Call(), [call]).reward == 1.0
    assert play(Call(), ["add"]).reward == 0.0


def test_each_seat_of_a_table_has_its_script():
    first, second = play_table(Duel(), [["3", "1"], ["2"]])
    assert (first.seat, first.reward, second.seat, second.reward) == (0, 1.0, 1, 1.0)
    with pytest.raises(ConfigError, match="Duel has 2 seats, and 1 scripts are given"):
        play(Duel(), ["1"])
    with pytest.raises(ConfigError, match="seat 1 has 1 replies, and is asked for another"):
        play_table(Duel(), [["3", "1"], ["3"]])


def test_what_isnt_played_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="write a list of replies"):
        play(Guess(5), "5")
    with pytest.raises(ConfigError, match="seat 0 has 0 replies, and is asked for another"):
        play(Guess(5), [])
    with pytest.raises(ConfigError, match="Codes is neither a task nor an environment"):
        play(Codes(), ["5"])


def test_what_an_environment_raises_reaches_the_test():
    class Broken(Guess):
        async def step(self, reply):
            return 1 / 0

    class Wrong(Guess):
        async def step(self, reply):
            return 1.0

    with pytest.raises(ZeroDivisionError):
        play(Broken(1), ["1"])
    with pytest.raises(EnvError, match=r"gave float, not a cookbook\.Step"):
        play(Wrong(1), ["1"])


def test_a_list_of_replies_is_given_in_order_with_uniform_logprobs(run_sync):
    renderer = get_renderer("core/chatml", byte_tokenizer())
    sampler = ScriptedSampler(renderer, ["a", "bc"])
    prompt, params = tinker.ModelInput.from_ints([1, 2]), tinker.SamplingParams(max_tokens=9)
    first, second = run_sync(sampler.sample(prompt, 2, params)).sequences
    assert [renderer.tokenizer.decode(s.tokens) for s in (first, second)] == ["a<|im_end|>", "bc<|im_end|>"]
    assert second.stop_reason == "stop" and second.logprobs == pytest.approx([sampler.logprob] * 3)
    assert run_sync(sampler.compute_logprobs(prompt)) == [None, sampler.logprob]
    with pytest.raises(ConfigError, match="the script has 2 replies"):
        run_sync(sampler.sample(prompt, 1, params))
    broken = ScriptedSampler(get_renderer("core/role_colon", byte_tokenizer()), ["x\n\nUser: y"])
    with pytest.raises(RendererError, match="contains the stop"):
        run_sync(broken.sample(prompt, 1, params))


@pytest.fixture
def run_sync():
    import asyncio

    async def wait(future):
        return await future

    return lambda future: asyncio.run(wait(future))


# The table


@chz.chz
class Codes(EnvConfig):
    """`n` questions with answers of two digits, to be learnt by heart."""

    n: int = 2

    def tasks(self, split):
        codes = [f"{(7 * i + 3) % 4}{(3 * i + 1) % 4}" for i in range(self.n)]
        return [Question(f"{split} {i}", code, Equal()) for i, code in enumerate(codes)]


def run(tmp_path, monkeypatch, *words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(sys.modules, "codes", sys.modules[__name__])
    here = ["env=codes:Codes", "backend=cookbook.testing:Tabular", "model=table", "renderer=core/chatml"]
    return cli.main(["run", "core/rl", *here, "--name", "x", *words])


def test_the_loop_teaches_a_table_each_answer_in_seconds(tmp_path, monkeypatch, capsys):
    options = ["backend.letters=0123", "lr=0.2", "max_tokens=3", "steps=40", "groups_per_step=4"]
    assert run(tmp_path, monkeypatch, *options, "eval_every=20") == 0
    rewards = [row["reward"] for row in read_rows(tmp_path / "runs" / "x")]
    assert rewards[0] < 0.2 and sum(rewards[-5:]) / 5 > 0.9
    assert json.loads((tmp_path / "runs" / "x" / "record.json").read_text())["status"] == "done"


def test_a_test_asks_in_one_line_whether_a_reward_is_learnt():
    rewards = learn(Codes(), "0123", max_tokens=3)
    assert len(rewards) == 40 and rewards[0] < 0.2 and sum(rewards[-5:]) / 5 > 0.9
    files = os.listdir("/proc/self/fd")
    assert max(learn(Codes(), "45", steps=3)) == 0.0  # letters that no answer has
    assert len(os.listdir("/proc/self/fd")) == len(files)


def test_a_table_that_sees_the_last_token_alone_cant_tell_the_questions_apart(tmp_path, monkeypatch, capsys):
    options = ["backend.letters=0123", "lr=0.2", "max_tokens=3", "steps=40", "groups_per_step=4"]
    assert run(tmp_path, monkeypatch, *options, "backend.sees=last", "eval_every=0") == 0
    assert max(row["reward"] for row in read_rows(tmp_path / "runs" / "x")) < 0.8


def test_a_run_on_a_table_ends_with_its_process(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, "steps=1", "max_tokens=3", "eval_every=0") == 0
    assert cli.main(["run", "--from", "x", "load=x", "--name", "y"]) == 2
    assert "a table is kept in memory only" in capsys.readouterr().err


def test_a_table_refuses_what_it_cant_do(run_sync):
    table = TableSampler(Table.uniform([5, 2]))
    prompt = tinker.ModelInput.from_ints([1])
    with pytest.raises(BackendError, match="stops at tokens, not at texts"):
        run_sync(table.sample(prompt, 1, tinker.SamplingParams(max_tokens=3, stop=["\n\nUser:"])))
    with pytest.raises(ConfigError, match="different ASCII letters"):
        Tabular(letters="aa")
    client = Tabular().connect(None)
    with pytest.raises(BackendError, match="no loss 'hinge'"):
        client.forward([], "hinge")


def test_a_table_samples_by_temperature_and_tells_logprobs_at_1(run_sync):
    table = Table.uniform([5, 2])
    table.logits[1] = [1.0, 0.0]
    greedy, hot = table.draw(1, 0.99, 0), table.draw(1, 0.6, 100.0)
    assert greedy[0] == 5 and hot[0] == 2  # 0.6 is the first's by its probability, 0.73, and not when flat
    assert greedy[1] == pytest.approx(-0.3133, abs=1e-4) and hot[1] == pytest.approx(-1.3133, abs=1e-4)


def test_a_table_learns_a_conversation_by_cross_entropy():
    renderer = get_renderer("core/chatml", byte_tokenizer())
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "21"}]
    data_D = supervised_data([to_example(renderer.build_supervised_example(messages), 99)], "token_sum")
    client, losses = Tabular(letters="123").connect(None), []
    for _ in range(30):
        losses.append(client.forward_backward(data_D, "cross_entropy").value.metrics["loss:sum"])
        client.optim_step(tinker.AdamParams(learning_rate=0.3))
    assert losses[0] == pytest.approx(3 * 1.3863, abs=1e-3) and losses[-1] < 0.05


def test_importing_the_stand_ins_loads_nothing_heavy():
    heavy = ["numpy", "tinker", "torch", "transformers", "datasets", "tokenizers", "scipy"]
    code = f"import sys, cookbook.testing; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
