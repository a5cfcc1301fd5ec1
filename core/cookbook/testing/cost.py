"""L4: what an environment costs, in tokens and in seconds, and how that grows from turn to turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from ..types import Episode
from .drive import Table, anything, play, text_of
from .rules import Report
from .subject import FAULTS, Subject, named, openings, spread

TURNS = 8
LONG_TEXT = 40
"""Characters; a shorter text may well stand in a later one by chance."""


def check_cost(subject: Subject, report: Report, count: Any = None) -> None:
    """Looks at L4. count: of the tokens of a text; None counts bytes."""
    measure = count or (lambda text: len(text.encode("utf-8", "replace")))
    tasks = [subject.audited[i] for i in spread(len(subject.audited), 8)]
    try:
        prompts = [sum(measure(text_of(message)) for message in messages) for messages in openings(tasks)]
        policy = anything(["1", "yes", "A"])
        began, steps, seen = time.perf_counter(), 0, []
        for i, task in enumerate(tasks):
            episodes = play([Table(task, policy, ("cost", i))], seconds=subject.patience_s, turns=TURNS)
            steps += sum(len(episode.turns) for episode in episodes)
            seen += [(task, episode) for episode in episodes]
        seconds = time.perf_counter() - began
    except FAULTS:
        return  # L1 to L3 tell of it
    unit = "tokens" if count else "bytes"
    report.facts[f"cost/prompt_{unit}"] = [round(sum(prompts) / len(prompts)), max(prompts)]
    report.facts["cost/turns"] = round(steps / len(seen), 2)
    report.facts["cost/steps_per_s"] = round(steps / seconds)
    grown = [_grown(episode, measure) for _, episode in seen]
    more = [sizes for sizes in grown if sizes]
    if more:
        flat = [size for sizes in more for size in sizes]
        report.facts[f"cost/{unit}_a_turn"] = [round(sum(flat) / len(flat)), max(flat)]
    for task, episode in seen:
        if _repeats(episode):
            report.find("L4.history", f"{named(task)}: the messages after turn 2 hold those after turn 1")
            return


def _answers(episode: Episode) -> list[str]:
    """What the environment said after each reply."""
    replies = {id(turn.message) for turn in episode.turns}
    said: list[str] = []
    for message in episode.messages:
        if id(message) in replies:
            said.append("")
        elif said:
            said[-1] += text_of(message)
    return said


def _grown(episode: Episode, measure: Any) -> list[int]:
    return [measure(text) for text in _answers(episode) if text]


def _repeats(episode: Episode) -> bool:
    """Whether each of two later observations holds the one before it, whole, and more."""
    said: Sequence[str] = [text for text in _answers(episode) if text]
    held = [len(b) > len(a) >= LONG_TEXT and a.strip() in b for a, b in itertools.pairwise(said)]
    return len(held) >= 2 and all(held[:3])
