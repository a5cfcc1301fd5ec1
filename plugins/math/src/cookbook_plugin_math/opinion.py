"""math-verify's opinion on a reply, as a worker asks for it; the time limit is the worker's."""

from __future__ import annotations

import logging

from math_verify import parse, verify  # pyright: ignore[reportMissingImports]


def opinion(text: str, reference: str) -> list[str]:
    """[verdict, stage, detail]. Raises what math-verify raises."""
    known = parse(f"\\boxed{{{reference}}}", parsing_timeout=0)
    if not known:
        return ["undecided", "math-verify", "the reference isn't read"]
    given = parse(text, parsing_timeout=0)
    same = verify(known, given, timeout_seconds=0)
    return ["right" if same else "wrong", "math-verify", f"read {given[0] if given else 'nothing'}"[:200]]


logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of alarms that are off
opinion(r"\boxed{\frac{x}{2}}", "x/2")  # what math-verify loads at its first call belongs to a worker's start
