"""What `--dry-run` shows: the first batch's exact tokens with their weights, and what a step will cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from .data import Example
from .rendering import Rendered, Renderer
from .rollout import close, opening, table_of
from .schedule import cancel
from .types import Env, Task


async def preview(
    renderer: Renderer, tasks_P: Sequence[Task], group_size: int, max_tokens: int, trains: bool = True
) -> str:
    """Renders the opening of every seat of a step's tasks, or of an evaluation's; samples nothing.

    A seat that opens once another has moved has no prompt yet: it is counted, and its prompt isn't.
    """
    tables = [await _openings(table_of(task), renderer) for task in tasks_P]
    prompts = [prompt for table in tables for prompt in table if prompt is not None]
    waiting = sum(table.count(None) for table in tables) * group_size
    lines = [f"the first prompt: {len(prompts[0].token_ids)} tokens; the reply is sampled after them", ""]
    lines += _tokens(renderer, prompts[0].token_ids, prompts[0].weights)
    lengths, what = [len(p.token_ids) for p in prompts], "a step" if trains else "the evaluation"
    episodes = len(prompts) * group_size + waiting
    trained = sum(lengths) * group_size + episodes * max_tokens
    lines += [
        "",
        f"{what}: {len(tasks_P)} tasks x {group_size} tables = {episodes} episodes",
        f"  first prompts: {sum(lengths) * group_size} tokens ({min(lengths)} to {max(lengths)} each)",
        f"  first replies: at most {episodes * max_tokens} tokens ({max_tokens} each)",
        *([f"  trained on: at most {trained} tokens after one turn"] if trains else []),
        *([f"  without the prompts of {waiting} seats that open once another has moved"] if waiting else []),
    ]
    return "\n".join(lines)


def preview_examples(renderer: Renderer, examples_B: Sequence[Example], steps: int) -> str:
    """The first conversation of a batch, token by token, and what a step of it costs."""
    first = examples_B[0]
    lines = [f"the first conversation: {len(first.tokens_T)} tokens; those of weight 1 are learned", ""]
    lines += _tokens(renderer, first.tokens_T.tolist(), first.weights_T.tolist())
    lengths = [len(example.tokens_T) for example in examples_B]
    trained = sum(int(example.weights_T[1:].sum()) for example in examples_B)
    lines += [
        "",
        f"the first step of {steps}: {len(examples_B)} conversations",
        f"  {sum(lengths)} tokens ({min(lengths)} to {max(lengths)} each), of which {trained} are learned",
    ]
    return "\n".join(lines)


def _tokens(renderer: Renderer, token_ids: Sequence[int], weights: Iterable[float]) -> list[str]:
    lines = [f"{'id':>8}  weight  text"]
    for id, weight in zip(token_ids, weights, strict=True):
        lines.append(f"{id:>8}  {weight:>6.1f}  {renderer.tokenizer.decode([id])!r}")
    return lines


async def _openings(envs: Sequence[Env], renderer: Renderer) -> list[Rendered | None]:
    """Of each seat of a table; None for one that still waits when another has opened."""
    seats = [asyncio.create_task(_opening(env, renderer)) for env in envs]
    try:
        await asyncio.wait(seats, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(100):  # turns of the loop, for those that don't wait for anybody
            await asyncio.sleep(0)
        return [seat.result() if seat.done() else None for seat in seats]
    finally:
        await cancel(seats)


async def _opening(env: Env, renderer: Renderer) -> Rendered:
    try:
        start = await opening(env)
        return renderer.build_generation_prompt(start.messages, tools=start.tools)
    finally:
        await close(env)
