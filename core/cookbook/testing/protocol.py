"""L1: an environment builds, starts, steps and closes, and gives what it says it gives."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import chz

from ..errors import CookbookError, EnvError, RendererError
from ..rendering import get_renderer
from ..rollout import close, opening
from .drive import Table, always, anything, play
from .limits import TookTooLong, deadline
from .rules import Report
from .subject import FAULTS, Subject, build, named, print_of, told, values_of
from .tokens import CALLS, byte_tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool")
"""What most chat formats have a form for."""


def check_protocol(subject: Subject, report: Report) -> bool:
    """Looks at L1; whether there is anything for the other levels to look at: episodes that are played."""
    if not _builds(subject, report) or not _has_tasks(subject, report):
        return False
    _survives_json(subject, report)
    _refuses(subject, report)
    return all(_begins(subject, report, task) for task in subject.audited) and _plays(subject, report)


def _builds(subject: Subject, report: Report) -> bool:
    try:
        with deadline(6 * subject.patience_s):
            _ = subject.config
    except FAULTS as error:
        report.find("L1.build", told(error))
        return False
    low, high = subject.config.reward_range
    if not low < high:
        report.find("L1.build", f"reward_range = ({low}, {high}) is no range")
        return False
    return True


def _has_tasks(subject: Subject, report: Report) -> bool:
    for split in ("train", "test"):
        try:
            n = len(getattr(subject, split))
        except FAULTS as error:
            report.find("L1.tasks", f"tasks({split!r}): {told(error)}")
            return False
        report.facts[f"tasks/{split}"] = n
    if not len(subject.train):
        report.find("L1.tasks", "tasks('train') is empty")
        return False
    if not len(subject.test):
        report.find("L1.held-out", "tasks('test') is empty")
    try:
        _ = subject.audited  # a lazy split may fail anywhere in it
    except FAULTS as error:
        report.find("L1.tasks", f"tasks('train'), one of its {len(subject.train)}: {told(error)}")
        return False
    return True


def _survives_json(subject: Subject, report: Report) -> None:
    if not subject.id:
        report.unchecked["L1.config-json"] = "the check was given an object, not an id"
        return
    try:
        values = json.loads(json.dumps(values_of(subject.id, subject.config), allow_nan=False))
        again = values_of(subject.id, build(subject.id, values))
        if print_of(again) != print_of(values):
            changed = [k for k in values if print_of(values[k]) != print_of(again.get(k))]
            report.find("L1.config-json", f"{', '.join(changed)} came back as something else")
    except FAULTS as error:
        report.find("L1.config-json", told(error))


def _refuses(subject: Subject, report: Report) -> None:
    """What numbers no option can have end in: an error that says so, or an environment that plays."""
    if not subject.id:
        report.unchecked["L1.typed-errors"] = "the check was given an object, not an id"
        return
    for field in chz.chz_fields(subject.config).values():
        value = getattr(subject.config, field.logical_name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        for bad in (-1, 0):
            try:
                with deadline(subject.patience_s):
                    changed = build(subject.id, {**subject.values, field.logical_name: bad})
                    task = next(iter(changed.tasks("train")), None)
                    if task is not None:
                        play([Table(task, always("1"))], seconds=subject.patience_s / 2, turns=2)
            except (CookbookError, ValueError):
                pass  # it says what is wrong
            except FAULTS as error:
                report.find("L1.typed-errors", f"{field.logical_name}={bad}: {told(error)}")


def _begins(subject: Subject, report: Report, task: Any) -> bool:
    """Whether a task's table can be sat at."""
    try:
        with deadline(subject.patience_s):
            envs, others = list(task.table()), list(task.table())
            seats = getattr(task, "seats", 1)
            if len(envs) != seats:
                report.find("L1.table", f"{named(task)}.table() gave {len(envs)} environments, seats={seats}")
                return False
            if any(env is other for env in envs for other in others):
                report.find("L1.fresh", f"{named(task)}.table() gave one {type(envs[0]).__name__} twice")
            started = _starts(subject, report, task, envs[0])  # another seat may wait for its turn
            closed = _closes(report, task, "after start()", envs[:1])
            _closes(report, task, "before start()", [*envs[1:], *others])
            return started and closed
    except FAULTS as error:
        report.find("L1.table", f"{named(task)}.table(): {told(error)}")
        return False


def _starts(subject: Subject, report: Report, task: Any, env: Any) -> bool:
    limit = subject.patience_s / 2
    try:
        start = asyncio.run(_opening(env, limit))
    except FAULTS as error:
        error = getattr(error, "error", error)
        report.find("L1.start", f"{named(task)}: {told(error)}")
        return False
    if start is None:
        report.find("L1.start", f"{named(task)}: start() waited for more than {limit:g} s")
        return False
    if not start.messages or start.messages[-1]["role"] not in ("user", "tool"):
        last = start.messages[-1]["role"] if start.messages else "nothing"
        report.find("L1.opening", f"{named(task)}: the opening ends with {last}")
    _renders(report, task, start)
    return bool(start.messages)


async def _opening(env: Any, limit: float) -> Any:
    """None where it takes longer."""
    clock = asyncio.timeout(limit)
    try:
        async with clock:
            return await opening(env)
    except TimeoutError:
        if not clock.expired():  # the environment's own
            raise
        return None


def _renders(report: Report, task: Any, start: Any) -> None:
    strange = [message["role"] for message in start.messages if message["role"] not in ROLES]
    if strange:
        report.find("L1.renders", f"{named(task)}: a message of the role {strange[0]!r}")
        return
    id = "core/qwen3_instruct" if start.tools else "core/chatml"
    if any(not isinstance(message["content"], str) for message in start.messages):
        return  # images and the like: not every format has them
    try:
        get_renderer(id, byte_tokenizer(CALLS)).build_generation_prompt(
            list(start.messages), tools=start.tools
        )
    except (RendererError, KeyError, TypeError) as error:
        report.find("L1.renders", f"{named(task)}: {told(error)}")


def _closes(report: Report, task: Any, when: str, envs: list[Any]) -> bool:
    """Also what was never started: a run that is interrupted closes it all the same."""

    async def close_all() -> None:
        for env in envs:
            await close(env)

    try:
        asyncio.run(close_all())
    except FAULTS as error:
        report.find("L1.close", f"{named(task)}: close() {when}: {told(getattr(error, 'error', error))}")
        return False
    return True


def _plays(subject: Subject, report: Report) -> bool:
    """Ordinary replies: words of the prompt, numbers, texts."""
    policy = anything(["yes", "no", "1", "2", "A", "I don't know."])
    for i, task in enumerate(subject.audited):
        try:
            episodes = play([Table(task, policy, (i,))], seconds=subject.patience_s)
        except EnvError as error:
            rule = "L3.finite" if "gave the reward" in str(error) else "L1.step"
            report.find(rule, f"{named(task)}: {error}")
            return False
        except TookTooLong as error:
            report.find("L3.hangs", f"{named(task)}: {told(error)}")
            return False
        except FAULTS as error:
            report.find("L1.raises", f"{named(task)}: {told(error)}")
            return False
        if any(episode.stop_reason == "timeout" for episode in episodes):
            report.find("L3.hangs", f"{named(task)}: a step waited for more than {subject.patience_s:g} s")
            return False
    return True
