"""What is rewarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chz

from cookbook import Grade, GraderConfig, Message


@chz.chz
class Exact(GraderConfig):
    """1 for the reference and nothing more, else 0: a reply that repeats all of the question doesn't win."""

    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        # Replies are anything: empty, huge, of any script. Grade(right, reward=0.5) is for partial credit,
        # Grade(None) for "can't tell", which is left out and never counts as 0.
        return Grade(reply["content"].strip() == reference)
