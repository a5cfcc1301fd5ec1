"""What the environment promises. `cookbook check xnamex` looks for what authors overlook."""

from __future__ import annotations

import asyncio

import pytest
from cookbook_plugin_xnamex.env import WORDS, Game, Reciting

from cookbook.errors import ConfigError


def play(*replies):
    """One episode with three words: the sum of its rewards, and its last step."""

    async def episode():
        (env,) = Game(["sun", "sky", "rain"]).table()
        await env.start()
        return [await env.step({"role": "assistant", "content": text}) for text in replies]

    steps = asyncio.run(episode())
    return sum(step.reward or 0.0 for step in steps), steps[-1]


def test_all_words_in_their_order_are_worth_one():
    reward, last = play("sun", " sky\n", "rain")
    assert reward == 1.0 and last.done and last.correct


def test_after_a_right_word_the_next_is_asked_for():
    reward, last = play("sun", "sky")
    assert reward == 0.0 and not last.done and last.messages[0]["content"] == "Next."


def test_a_wrong_word_ends_it_with_the_share_said_before():
    for wrong in ("", "sky", "The word is sun.", "sun sky rain", "x" * 100_000):
        reward, last = play(wrong)
        assert reward == 0.0 and last.done and not last.correct
    assert play("sun", "sun")[0] == pytest.approx(1 / 3)


def test_no_word_is_both_trained_on_and_held_out():
    assert not set(WORDS["train"]) & set(WORDS["test"])


def test_the_games_are_always_the_same():
    assert Reciting().tasks("test") == Reciting().tasks("test")


def test_an_option_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="words=-1"):
        Reciting(words=-1)
