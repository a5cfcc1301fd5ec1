"""What the environment promises. `cookbook check xnamex` looks for what authors overlook."""

from __future__ import annotations

import asyncio

import pytest
from cookbook_plugin_xnamex.env import ASK, WORDS, LastWord

from cookbook.errors import ConfigError


def reward(task, text):
    """Of an episode of one reply."""
    (env,) = task.table()
    return asyncio.run(env.step({"role": "assistant", "content": text})).reward


def test_the_last_word_is_right_and_nothing_else_is():
    task = LastWord().tasks("train")[0]
    assert reward(task, f" {task.reference}\n") == 1.0
    for wrong in ("", "word", f"The word is {task.reference}.", ASK + task.reference, "x" * 100_000):
        assert reward(task, wrong) == 0.0


def test_no_word_is_both_trained_on_and_held_out():
    assert not set(WORDS["train"]) & set(WORDS["test"])


def test_the_tasks_are_always_the_same():
    assert LastWord().tasks("test") == LastWord().tasks("test")


def test_an_option_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="words=-1"):
        LastWord(words=-1)
