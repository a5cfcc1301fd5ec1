"""What the environment promises. `cookbook check xnamex` looks for what authors overlook."""

from __future__ import annotations

import asyncio

import pytest
from cookbook_plugin_xnamex.env import MAX_HINT, WORDS, Whisper

from cookbook.errors import ConfigError


def play(task, hint, choice):
    """One table: both rewards, and what the chooser was shown."""

    async def seat(env, text):
        messages = await env.start()
        step = await env.step({"role": "assistant", "content": text})
        return step.reward, messages[-1]["content"]

    async def table():
        teller, chooser = task.table()
        return await asyncio.gather(seat(teller, hint), seat(chooser, choice))

    (first, _), (second, shown) = asyncio.run(table())
    return [first, second], shown


def test_both_win_or_neither():
    task = Whisper().tasks("train")[0]
    assert play(task, "a hint", f" {task.word}\n")[0] == [1.0, 1.0]
    for wrong in ("", "word", ", ".join(task.words), "x" * 100_000):
        assert play(task, "a hint", wrong)[0] == [0.0, 0.0]


def test_the_chooser_sees_the_hint_and_no_more_than_so_much_of_it():
    task = Whisper().tasks("train")[0]
    assert "The hint: up there\n" in play(task, " up\nthere", "")[1]
    assert len(play(task, "x" * 100_000, "")[1]) < MAX_HINT + 100


def test_no_word_is_both_trained_on_and_held_out():
    assert not set(WORDS["train"]) & set(WORDS["test"])


def test_the_tasks_are_always_the_same():
    assert Whisper().tasks("test") == Whisper().tasks("test")


def test_an_option_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="words=-1"):
        Whisper(words=-1)
