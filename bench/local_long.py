"""The second RL task: long prompts that share nothing. `env=local_long:LongPrompts env.file=JOB`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chz
import local_rewards

from cookbook import EnvConfig, Grade, Message, Question


class Vowels:
    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        return Grade(correct=None, reward=local_rewards.vowels(reply["content"]))


@chz.chz(typecheck=True)
class LongPrompts(EnvConfig):
    """Each text of a JSON list, as the user's message."""

    file: str = chz.field(doc="the list")

    def tasks(self, split: str) -> Sequence[Question]:
        texts = json.loads(Path(self.file).read_text())
        return [Question(text, reference=None, grader=Vowels()) for text in texts]
