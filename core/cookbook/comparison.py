"""One evaluation against an earlier one of the same tasks, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .runs import find_run, read_record, status, transcripts
from .scores import paired
from .types import Episode, Message

_FEW = 8  # tasks that a line names
_TASKS = ("env", "split", "seed")  # options that say what is played
_HOW = ("max_tokens", "temperature", "limits")  # that a difference may come of, though not of the model


class Comparison:
    """With the evaluation `name`. Raises `ConfigError`, before anything is played, where it is none of the
    same tasks: another environment or options of it, another split, another seed. notes: lines on what else
    was otherwise there."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        """config: what is to be evaluated, as a flat layer."""
        self.folder = find_run(name)
        record, name = read_record(self.folder), self.folder.name
        theirs = record.get("config", {})
        if "env" not in theirs or "samples" not in theirs:
            env = theirs.get("env", config["env"])
            raise ConfigError(
                f"--compare {name}: it is no evaluation; `cookbook eval {env} load={name}` makes one of it"
            )
        if status(self.folder) != "done":
            raise ConfigError(f"--compare {name}: it isn't done; `cookbook resume {name}` goes on with it")
        differ = [key for key in {**theirs, **config} if config.get(key) != theirs.get(key)]
        self.notes: list[str] = []
        for key in sorted(differ, key=lambda key: key.count(".")):
            what = f"--compare {name}: {key} is {config.get(key)} here and was {theirs.get(key)} there"
            if key.split(".")[0] in _TASKS:
                raise ConfigError(f"{what}; give {key}={theirs.get(key)}")
            if key.split(".")[0] in _HOW:
                self.notes.append(f"{what}, which may make a difference too")

    def against(self, folder: Path) -> dict[str, Any]:
        """`paired` of the tasks that both played; tasks are named by their numbers. Raises `ConfigError` for
        a task that isn't the same in both."""
        before, after = transcripts(self.folder), transcripts(folder)
        common = sorted(before.keys() & after.keys())
        for i in common:
            if _opening(before[i][0]) != _opening(after[i][0]):
                name = self.folder.name
                raise ConfigError(f"--compare {name}: task {i} began otherwise there; evaluate both anew")
        found = paired([before[i] for i in common], [after[i] for i in common])
        for name in ("right_to_wrong", "wrong_to_right"):
            found[name] = [common[at] for at in found[name]]
        return {"run": str(self.folder), **found}


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `Comparison.against` found, for a person."""
    said = [f"against {found['run']}, {found['tasks']} tasks of both"]
    for name in ("correct", "reward"):
        if name in found:
            row = found[name]
            error = "" if row["difference_se"] is None else f" ± {row['difference_se']:.3f}"
            change = f"{row['before']:.3f} to {row['after']:.3f}, {row['difference']:+.3f}{error}"
            said.append(f"  {name:<14}  {change}")
    if "correct" in found:
        for name in ("right_to_wrong", "wrong_to_right"):
            said.append(f"  {name.replace('_', ' ')}  {_tasks(found[name])}")
    return said


def _tasks(numbers: Sequence[int]) -> str:
    if not numbers:
        return "0"
    more = ", ..." if len(numbers) > _FEW else ""
    return f"{len(numbers)}: {', '.join(map(str, numbers[:_FEW]))}{more}"


def _opening(episode: Episode) -> Sequence[Message]:
    """The messages before the first reply."""
    replies = [i for i, message in enumerate(episode.messages) if message["role"] == "assistant"]
    return episode.messages[: replies[-len(episode.turns)]] if episode.turns else episode.messages
