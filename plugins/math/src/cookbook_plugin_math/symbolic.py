"""The symbolic stage, as a worker runs it."""

from __future__ import annotations

from .deciding import decide
from .probing import Prober

_PROBER = Prober()


def symbolic(answer: str, reference: str) -> list[str]:
    """[verdict, stage, detail] of an answer, with symbols."""
    return list(decide(answer, reference, _PROBER))
