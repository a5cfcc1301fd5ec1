"""RL steps beside GRPOTrainer's: the demo's task, whose prompts share their worked examples, and one whose
prompts are long and share nothing. And whether both learn as much a step.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import local_plugins
from side_by_side import Rows, bar, ratios, spread

from cookbook import EnvConfig, Message
from cookbook.rendering import get_renderer
from cookbook.rl import Order, RLConfig
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_math.arithmetic import Arithmetic

MODEL, FORMAT = "SmolLM2-135M-Instruct", "core/chatml"
LONG, ANSWER = 245, 64  # tokens of a user's message, so that a prompt has about 256, and of an answer


def demo(bench: Any, groups: int, size: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """math/arithmetic as its recipe has it; a batch of so many groups."""
    played = {"groups": groups, "size": size, "steps": steps, "seed": seed, "max_tokens": 8}
    return {"words": ["math/arithmetic"], "reward": "sum_is", "at_once": 32} | _task(
        bench, Arithmetic(), played
    )


def long(bench: Any, groups: int, size: int, steps: int) -> dict[str, Any]:
    """Texts that share nothing but the format's first tokens."""
    file = bench.scratch / "long.json"
    texts = [bench.tokenizer.decode(ids) for ids in bench.texts.windows(groups * steps, LONG)]
    file.write_text(json.dumps(texts))
    played = {"groups": groups, "size": size, "steps": steps, "seed": 0, "max_tokens": ANSWER}
    words = ["core/rl", "env=local_plugins:LongPrompts", f"env.file={file}", f"model={MODEL}"]
    words += ["backend=local/torch", f"renderer={FORMAT}"]
    task = _task(bench, local_plugins.LongPrompts(file=str(file)), played)
    return {"words": words, "reward": "vowels", "at_once": 8} | task


def _task(bench: Any, env: EnvConfig, played: dict[str, int]) -> dict[str, Any]:
    """The prompts, in the order in which the run of that seed plays them."""
    cfg = RLConfig(
        model=MODEL, env=env, backend=TorchBackend(), groups_per_step=played["groups"], seed=played["seed"]
    )
    order, renderer = Order(cfg), get_renderer(FORMAT, bench.tokenizer)
    prompts = []
    for step in range(played["steps"]):
        for group in range(played["groups"]):
            task: Any = order.task(step, group)
            asked = task.prompt
            messages = [Message(role="user", content=asked)] if isinstance(asked, str) else asked
            ids = list(renderer.build_generation_prompt(messages).token_ids)
            prompts.append({"ids": ids, "reference": task.reference or 0})
    return {"prompts": prompts, **played}


def steps(bench: Any) -> None:
    """The seconds of a step: sampling, rewards, update. A group whose rewards are all equal gives no
    gradient: ours leaves it out, and the peer computes it."""
    count = min(bench.rounds, 2)  # a peer's step takes a minute
    for dtype in bench.dtypes:
        tasks = {"the demo": demo(bench, 16, 8, steps=3), "long prompts": long(bench, 4, 4, steps=3)}
        results = bench.measure("reinforce", ("ours", "trl"), count, dtype=dtype, lr=3e-4, tasks=tasks)
        for (name, task), least in zip(tasks.items(), (10.0, 3.0), strict=True):
            lengths = [len(each["ids"]) for each in task["prompts"]]
            print(f"\nOne RL step, {dtype}, {name}: {task['groups']} prompts of {min(lengths)} to ", end="")
            print(f"{max(lengths)} tokens, {task['size']} answers of {task['max_tokens']} tokens at most")
            print(f"  {'seconds a step':24}{'median':>9}{'min':>9}{'max':>9}{'tokens sampled a step':>24}")
            for side in ("trl", "ours"):
                _row(results, f"{side} {name}")
            pair = f"trl {name}", f"ours {name}"
            (times, *around), cpu = (ratios(results, *pair, key) for key in ("seconds", "cpu_s"))
            print(f"  ours {times:.1f} times as fast ({around[0]:.1f}-{around[1]:.1f}), ", end="")
            print(f"by CPU time {cpu[0]:.1f} ({cpu[1]:.1f}-{cpu[2]:.1f})")
            bar(f"at least {least:.0f} times GRPOTrainer's, {dtype}, {name}, {times:.1f}", times >= least)


def _row(results: Sequence[Rows], name: str) -> None:
    median, least, most = spread(results, name, "seconds")
    tokens = statistics.mean(n for rows in results for n in rows[name]["tokens"])
    print(f"  {results[0][name]['name']:24}{median:9.2f}{least:9.2f}{most:9.2f}{tokens:24.0f}")


def learning(bench: Any) -> None:
    """Rewards of the first 5 and the last 5 steps, over the seeds. The samples differ, so means are compared
    with their standard errors, of the steps' means: equal is within two of the difference's."""
    tasks = {str(seed): demo(bench, 8, 8, bench.learn, seed) for seed in range(bench.seeds)}
    (rows,) = bench.measure("reinforce", ("ours", "trl"), 1, dtype="float32", lr=3e-4, tasks=tasks)
    print(f"\nLearning, float32: the demo with 8 x 8 answers, {bench.learn} steps, {bench.seeds} seeds")
    print(f"  {'mean reward, its error':24}{'first 5 steps':>18}{'last 5':>18}")
    lasts = []
    for side in ("trl", "ours"):
        rewards = [rows[f"{side} {seed}"]["rewards"] for seed in tasks]
        first, last = _mean([x[:5] for x in rewards]), _mean([x[-5:] for x in rewards])
        lasts.append(last)
        line = "".join(f"{mean:12.3f} {error:.3f}" for mean, error in (first, last))
        print(f"  {rows[f'{side} 0']['name']:24}{line}")
    (a, a_error), (b, b_error) = lasts
    apart, error = abs(a - b), math.hypot(a_error, b_error)
    bar(
        f"equal learning per step: the last 5 steps are {apart:.3f} apart, two errors are {2 * error:.3f}",
        apart <= 2 * error,
    )


def _mean(rewards: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Of all steps, and its standard error."""
    every = [reward for each in rewards for reward in each]
    return statistics.mean(every), statistics.stdev(every) / math.sqrt(len(every))


def rl(bench: Any) -> None:
    steps(bench)
    learning(bench)
