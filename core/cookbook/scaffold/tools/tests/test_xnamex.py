"""What the environment promises. `cookbook check xnamex` looks for what authors overlook."""

from __future__ import annotations

import asyncio
import json

from cookbook_plugin_xnamex.env import PRICES, THINGS, Prices


def calls(**arguments):
    """A reply that calls the tool."""
    function = {"name": "price", "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def says(text):
    return {"role": "assistant", "content": text}


def play(task, *replies):
    """One episode: its last step."""

    async def episode():
        (env,) = task.table()
        await env.start()
        return [await env.step(reply) for reply in replies][-1]

    return asyncio.run(episode())


def test_the_tool_tells_the_price_and_the_price_is_right():
    task = Prices().tasks("train")[0]
    step = play(task, calls(thing=THINGS["train"][0]))
    assert not step.done and step.messages[0]["content"] == task.reference
    assert play(task, calls(thing=THINGS["train"][0]), says(f" {task.reference}\n")).reward == 1.0


def test_nothing_else_is_right():
    task = Prices().tasks("train")[0]
    for wrong in ("", "1000", f"It costs {task.reference}.", "9" * 100_000):
        assert play(task, says(wrong)).reward == 0.0


def test_a_wrong_call_is_told_to_the_model():
    task = Prices().tasks("train")[0]
    for wrong in (calls(thing="air"), calls(thing=3), calls()):
        assert play(task, wrong).messages[0]["content"].startswith("error: ")


def test_nothing_is_both_trained_on_and_held_out():
    assert not set(THINGS["train"]) & set(THINGS["test"])
    assert len(set(PRICES.values())) == len(PRICES)
