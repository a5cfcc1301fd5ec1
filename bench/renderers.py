"""Renderers beside tinker-cookbook's and transformers' chat templates: `python bench/renderers.py`.

The conversations and templates are the goldens of ../shared, the tokenizers the models' own; without them
nothing is measured. Each side runs in processes of its own, in turn with the others. Ours makes a new
renderer for each repeat, so that none remembers the one before; what the tokenizers keep stays on all sides.
Ratios are medians over the rounds; a missed bar is no failure of the command.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from side_by_side import HERE, Rows, bar, machine, ratios, rounds, same_work, spread

SHARED = HERE.parents[1] / "shared" / "goldens" / "renderers"
PEER = HERE.parent / ".bench" / "bin" / "python"
NAMES = ("qwen3", "qwen3_5", "nemotron3")
ROUNDS = 3
COUNT, LETTERS, SHORT = 5, 1000, 400  # conversations, characters of a message, and of one that grows
TURNS = (2, 5, 10)


def windows(letters: int, count: int, messages: int, answers: str) -> list[list[dict[str, str]]]:
    """Conversations of distinct windows of the manual that comes with Python: a system message, a user's,
    then replies and answers in turn."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    cut = [text[at : at + letters].strip() for at in range(0, letters * count * messages, letters)]
    roles = ["system", "user", *("assistant", answers) * messages][:messages]
    return [
        [{"role": role, "content": each} for role, each in zip(roles, cut[i::count], strict=True)]
        for i in range(count)
    ]


def job(name: str, tokenizers: Path) -> dict[str, Any]:
    """What all sides render: of the goldens all that none of them refuses, images aside."""
    data = json.loads(gzip.decompress((SHARED / "goldens_public.json.gz").read_bytes()))
    conversations = {each["id"]: each for each in data["conversations"] if not each.get("images")}
    entry = data["renderers"][name]
    cases = [case for case in entry["cases"] if case["case"] in conversations]
    prompts, examples = [], []
    for case in cases:
        conversation = conversations[case["case"]]
        messages = conversation["messages"]
        hf = case["hf"].get("prompt")
        if "tokens" in case["prompt"] and not (isinstance(hf, dict) and "error" in hf):
            asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
            prompts.append({"messages": asked, "tools": conversation.get("tools")})
        if "tokens" in (case.get("supervised") or {}):
            examples.append({"messages": messages, "tools": conversation.get("tools")})
    return {
        "name": name,
        "tokenizer": str(tokenizers / entry["tokenizer"] / "tokenizer.json"),
        "template": (SHARED / "templates" / entry["hf_template"]).read_text(),
        "kwargs": entry["hf_kwargs"],
        "prompts": prompts,
        "examples": examples,
        "long": [{"messages": messages} for messages in windows(LETTERS, COUNT, 10, "user")],
        # tools' results, which can also be appended where a user's message edits what came before
        "growing": windows(SHORT, COUNT, 2 * TURNS[-1], "tool"),
        "turns": TURNS,
    }


def table(
    results: Sequence[Rows], rows: dict[str, str], unit: Callable[[float], float], over: str, columns: str
) -> None:
    """A line a row of the results: its median, min and max in the unit, and its times over those of a row."""
    print(f"  {columns:36}{'median':>9}{'min':>9}{'max':>9}{'by wall time':>20}{'by CPU time':>20}")
    for row, label in rows.items():
        figures = sorted(map(unit, spread(results, row, "seconds")[1:]))
        median = unit(spread(results, row, "seconds")[0])
        times = [ratios(results, row, over, key) for key in ("seconds", "cpu_s")]
        shown = "".join(f"{m:8.2f} ({low:.2f}-{high:.2f})" for m, low, high in times) if row != over else ""
        print(f"  {label:36}{median:9.1f}{figures[0]:9.1f}{figures[1]:9.1f}{shown}")


def beside(
    results: Sequence[Rows], job: dict[str, Any], kind: str, sides: Sequence[str], least: float
) -> None:
    """The goldens' conversations, a second."""
    messages = sum(len(each["messages"]) for each in job[kind])
    ours = f"{job['name']} {kind} ours"
    rows = [ours, *[f"{job['name']} {kind} {side}" for side in sides]]
    labels = {row: results[0][row]["name"] for row in rows}
    if kind == "prompts":
        labels[f"{ours} apart"] = f"{results[0][ours]['name']}, a renderer for each"
    print(f"\n{job['name']}: {kind} of the goldens, {len(job[kind])} conversations, {messages} messages")
    table(results, labels, lambda s: messages / s, ours, "messages a second (times over ours)")
    print("  tokens: " + ", ".join(f"{labels[row]} {results[0][row]['work']['tokens']}" for row in rows))
    times = min(ratios(results, row, ours, "seconds")[0] for row in rows[1:])
    bar(f"at least {least} times the faster peer's {kind}, {job['name']}, {times:.2f} times", times >= least)


def overhead(results: Sequence[Rows], job: dict[str, Any]) -> None:
    ours, bare = f"{job['name']} long ours", f"{job['name']} long ours bare"
    print(f"\n{job['name']}: prompts of {COUNT} conversations, 10 messages of {LETTERS} characters each")
    labels = {bare: "one bare encode of the text", ours: results[0][ours]["name"]}
    table(results, labels, lambda s: s / COUNT * 1e6, bare, "us a prompt (times over bare)")
    print("  " + same_work(results, (ours, bare)))
    more = (ratios(results, ours, bare, "seconds")[0] - 1) * 100
    bar(f"at most 25 % more than one bare encode, {job['name']}, {more:.0f} %", more <= 25)


def growing(results: Sequence[Rows], job: dict[str, Any]) -> None:
    print(f"\n{job['name']}: {COUNT} conversations that grow by two messages of {SHORT} characters a turn")
    for turn in TURNS:
        rows = {way: f"{job['name']} growing ours {way} {turn}" for way in ("anew", "kept", "bridge")}
        labels = dict(zip(rows.values(), ("whole, anew", "whole, one renderer kept", "bridge"), strict=True))
        table(
            results, labels, lambda s: s / COUNT * 1e6, rows["kept"], f"us at turn {turn} (times over kept)"
        )
    times = ratios(results, rows["anew"], rows["kept"], "seconds")[0]
    bar(f"at least 2 times anew at {TURNS[-1]} turns, {job['name']}, {times:.2f} times", times >= 2)


def unpacked(folder: Path, names: Sequence[str]) -> Path:
    with tarfile.open(SHARED / "tokenizers.tar.xz") as tar:
        wanted = [m for m in tar.getmembers() if m.name in {f"tokenizers/{n}/tokenizer.json" for n in names}]
        tar.extractall(folder, wanted, filter="data")
    return folder / "tokenizers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renderer", action="append", choices=NAMES, help="of these; none: all")
    parser.add_argument("--tokenizers", type=Path, help="a folder of the models' tokenizers, a folder each")
    parser.add_argument("--peer", default=str(PEER), help="the Python that tinker-cookbook is installed for")
    asked = parser.parse_args()
    if not SHARED.is_dir():
        print(f"\nrenderers aren't measured: their goldens aren't there, {SHARED}")
        return
    names = asked.renderer or NAMES
    with tempfile.TemporaryDirectory() as scratch:
        tokenizers = asked.tokenizers or unpacked(Path(scratch), names)
        jobs = [job(name, tokenizers.resolve()) for name in names]
        file = Path(scratch, "jobs.json")
        file.write_text(json.dumps(jobs))
        sides = [(sys.executable, "ours"), (asked.peer, "peer"), (asked.peer, "hf")]
        words = [(python, side, str(file)) for python, side in sides]
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        results = rounds(ROUNDS, "renderers_side.py", words, env)
    print(f"\n{machine('cookbook-core', 'tokenizers')}; {ROUNDS} rounds")
    for each in jobs:
        beside(results, each, "prompts", ("peer", "hf"), 1.3)
        beside(results, each, "examples", ("peer",), 2.0)
        overhead(results, each)
        growing(results, each)


if __name__ == "__main__":
    main()
