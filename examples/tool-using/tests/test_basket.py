import asyncio
import json

import pytest
from cookbook_plugin_prices.basket import Basket

from cookbook import tools


def said(content="", *calls):
    made = [{"function": {"name": name, "arguments": json.dumps(given)}} for name, given in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def play(task, *replies):
    """The steps of an episode with these replies."""

    async def main():
        (env,) = task.table()
        await env.start()
        return [await env.step(reply) for reply in replies]

    return asyncio.run(main())


def test_prices_are_looked_up_and_a_right_number_is_right():
    task = Basket().tasks("train")[0]
    _, _, m, one, _, n, other, *_ = task.prompt[-1]["content"].split()
    first, second = play(task, said("", ("price", {"item": one}), ("price", {"item": other})), said("0"))[:2]
    prices = [int(message["content"]) for message in first.messages]
    assert (first.done, first.reward) == (False, 0.0) and (second.done, second.reward) == (True, 0.0)
    products = [
        ("calculate", {"left": a, "operator": "*", "right": int(b)})
        for a, b in zip(prices, (m, n), strict=True)
    ]
    (step,) = play(task, said("", *products))
    total = sum(int(message["content"]) for message in step.messages)
    (step,) = play(task, said(f"{total} cents"))
    assert (step.reward, step.correct, step.done) == (1.0, True, True)


@pytest.mark.parametrize(
    "call", [("price", {"item": "gold"}), ("calculate", {"left": 10**10, "operator": "+", "right": 1})]
)
def test_a_call_that_asks_too_much_is_told_so_and_the_episode_goes_on(call):
    (step,) = play(Basket().tasks("train")[0], said("", call))
    assert step.messages[0]["content"].startswith("error: ") and not step.done
    assert step.metrics == {"tool_calls": 1, "failed_tool_calls": 1}


@pytest.mark.parametrize("reply", ["", "many", "1 2 3", "9" * 1000, "What do 3 apples and 2 pears cost?"])
def test_what_is_not_the_number_is_wrong(reply):
    (step,) = play(Basket().tasks("test")[0], said(reply))
    assert (step.reward, step.correct) == (0.0, False)


def test_no_basket_is_both_trained_on_and_held_out_and_prices_stay():
    prompts = [{task.prompt[-1]["content"] for task in Basket().tasks(split)} for split in ("train", "test")]
    assert not prompts[0] & prompts[1] and len(prompts[1]) == 500
    again = [task.reference for task in Basket().tasks("train")]
    assert [task.reference for task in Basket().tasks("train")] == again
    assert [tools.describe(f)["function"]["name"] for f in Basket().tasks("train")[0].tools] == [
        "price",
        "calculate",
    ]
