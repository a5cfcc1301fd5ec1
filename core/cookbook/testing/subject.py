"""An environment under check: how it is built, again and again, and the tasks that are looked at."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import chz

from ..configs import by_id, settle
from ..kinds import EnvConfig
from ..options import tasks_of
from ..rollout import close, opening
from ..types import Message, Question, Task
from .limits import TookTooLong, deadline

TASKS = 24
"""How many training tasks an audit plays, from all over the split."""
PATIENCE_S = 10.0
"""How long any one call of an environment may take in a check."""
FAULTS = (Exception, SystemExit, TookTooLong)
"""What somebody else's code may end with; each is a finding."""


@chz.chz
class _Holder:
    env: EnvConfig = chz.field(meta_factory=by_id("env"))


def build(id: str, values: Mapping[str, Any]) -> EnvConfig:
    """The environment of an id, or of "module:Class", with these options. Raises `CookbookError`."""
    layer = {"env": id} | {f"env.{name}": value for name, value in values.items()}
    return settle(_Holder, [("command line", layer)]).config.env


def values_of(id: str, config: EnvConfig) -> dict[str, Any]:
    """All its options as a record keeps them: flat, JSON-able."""
    settled = settle(_Holder, [("check", {"env": id, **_given(config)})])
    return {name.removeprefix("env."): v for name, v in settled.values().items() if name != "env"}


def _given(config: EnvConfig) -> dict[str, Any]:
    fields = chz.chz_fields(config).values()
    return {f"env.{f.logical_name}": getattr(config, f.logical_name) for f in fields}


@dataclass
class Subject:
    """make: builds the config anew, as often as a check needs. id: where the registry knows it, or
    "module:Class", so that another process can build it too. values: the options it is built with."""

    where: str
    make: Callable[[], EnvConfig]
    id: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    patience_s: float = PATIENCE_S
    unanswered: dict[int, str] = field(default_factory=dict)
    """What `answers` met with, by the place of the task."""

    @functools.cached_property
    def config(self) -> EnvConfig:
        return self.make()

    @functools.cached_property
    def train(self) -> Sequence[Task]:
        return self.tasks("train")

    @functools.cached_property
    def test(self) -> Sequence[Task]:
        return self.tasks("test")

    @functools.cached_property
    def audited(self) -> list[Task]:
        """The training tasks that the audits play."""
        return [self.train[i] for i in spread(len(self.train), TASKS)]

    @functools.cached_property
    def answers(self) -> dict[int, str | Message]:
        """What ought to win, of those of the audited that say so first thing; none of several seats."""
        said: dict[int, Any] = {}
        for i, task in enumerate(self.audited):
            if hasattr(task, "oracle") and self.seats == 1:
                try:
                    said[i] = task.oracle(openings([task])[0])  # type: ignore[attr-defined]
                except FAULTS as error:
                    self.unanswered[i] = told(error)
        return {i: reply for i, reply in said.items() if reply}

    def tasks(self, split: str) -> Sequence[Task]:
        """Of a config that is built for it."""
        with deadline(6 * self.patience_s):
            return tasks_of(self.make(), split)

    @property
    def seats(self) -> int:
        return max(getattr(task, "seats", 1) for task in self.audited)


def spread(n: int, most: int) -> list[int]:
    """At most so many indices of [0, n), evenly over it, the first and the last among them."""
    if n <= most:
        return list(range(n))
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})


def openings(tasks: Iterable[Task]) -> list[list[Message]]:
    """The messages that each task begins with, for its first seat. Raises what the environment does."""

    async def first(task: Task) -> list[Message]:
        envs = list(task.table())
        try:
            return list((await opening(envs[0])).messages)
        finally:
            for env in envs:
                await close(env)

    async def all_of_them() -> list[list[Message]]:
        return [await first(task) for task in tasks]

    return asyncio.run(all_of_them())


def print_of(value: Any) -> str:
    """A text that is equal for what is equal: messages, metrics, options."""
    return json.dumps(value, sort_keys=True, default=repr, ensure_ascii=False)


def short(value: Any, most: int = 120) -> str:
    """An example, cut to a line's part."""
    text = value if isinstance(value, str) else print_of(value)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text)} characters)"


def named(task: Task) -> str:
    """A task in an example: its question, or its class and the fields it has."""
    if isinstance(task, Question):
        last = task.prompt if isinstance(task.prompt, str) else [m.get("content") for m in task.prompt[-1:]]
        return f"{short(last if isinstance(last, str) else ''.join(map(_text, last)), 80)!r}"
    fields = {k: v for k, v in getattr(task, "__dict__", {}).items() if not k.startswith("_")}
    return f"{type(task).__name__}({short(', '.join(f'{k}={v!r}' for k, v in fields.items()), 80)})"


def _text(content: Any) -> str:
    return content if isinstance(content, str) else print_of(content)


def told(error: BaseException) -> str:
    return short(f"{type(error).__name__}: {error}", 200)
