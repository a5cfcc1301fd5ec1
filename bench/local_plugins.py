"""What the RL runs of the benchmark need beside the project's own: the second task,
`env=local_plugins:LongPrompts`, and `trackers.0=local_plugins:Cpu`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import chz
import local_rewards

from cookbook import EnvConfig, Grade, Message, Question, TrackerConfig
from cookbook.kinds import Tracker


class Vowels:
    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        return Grade(None, reward=local_rewards.vowels(reply["content"]))


@chz.chz(typecheck=True)
class LongPrompts(EnvConfig):
    """Each text of a JSON list, as the user's message."""

    file: str = chz.field(doc="the list")

    def tasks(self, split: str) -> Sequence[Question]:
        texts = json.loads(Path(self.file).read_text())
        return [Question(text, reference=None, grader=Vowels()) for text in texts]


@chz.chz(typecheck=True)
class Cpu(TrackerConfig):
    """Writes the CPU time of each step to a file, a line each."""

    file: str = chz.field(doc="the file")

    def open(self, run: Any) -> Tracker:
        return _Cpu(Path(self.file))


class _Cpu(Tracker):
    def __init__(self, file: Path) -> None:
        self._file, self._before = file, process_time()
        file.write_text("")

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        now = process_time()
        with self._file.open("a") as file:
            file.write(f"{now - self._before}\n")
        self._before = now
