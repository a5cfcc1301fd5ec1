"""The graders `math/answer` and `math/verify`."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import chz

from cookbook import Grade, GraderConfig, Message

from .grading import Grading, ask, awaitable, require_math_verify


@chz.chz(typecheck=True)
class Answer(GraderConfig):
    r"""The reply's final answer is the same mathematical object as the reference.

    The answer is the last \boxed{}, or what the reply's words give as one. Undecided, never wrong, is what
    can't be decided in time or isn't readable in the reference.
    """

    opinion: bool = chz.field(default=False, doc="whether math-verify is asked about what isn't decided")

    @chz.init_property
    def _grading(self) -> Grading:
        return Grading(self.opinion)

    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade | Awaitable[Grade]:  # type: ignore[override]
        """At once, or awaitable where the symbolic stage is needed."""
        return awaitable(self._grading.start(reply["content"], reference))


@chz.chz(typecheck=True)
class Verify(GraderConfig):
    """math-verify's verdict, in workers that can be killed; its own time limits need a main thread."""

    @chz.validate
    def _check(self) -> None:
        require_math_verify()

    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Awaitable[Grade]:  # type: ignore[override]
        """Awaitable. Undecided where math-verify doesn't read the reference, raises or takes too long."""
        return awaitable(ask(reply["content"], str(reference)))  # type: ignore[return-value]
