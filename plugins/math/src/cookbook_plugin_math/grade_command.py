"""`cookbook math grade`: why a reply is right or wrong."""

from __future__ import annotations

import argparse
import sys

from cookbook.errors import ConfigError

from .deciding import Read
from .extraction import extract
from .grading import Grading, ask, require_math_verify


def main(argv: list[str]) -> int:
    """Prints what was read and the verdict; 0 also when it is wrong. Raises `ConfigError`."""
    parser = argparse.ArgumentParser(
        prog="cookbook math grade",
        description="Grade a reply as the grader math/answer does, and say how the verdict came about.",
    )
    parser.add_argument("--text", required=True, metavar="TEXT", help="the reply; - reads it from stdin")
    parser.add_argument("--reference", required=True, metavar="TEXT", help="the right answer")
    parser.add_argument("--verify", action="store_true", help="print math-verify's verdict too")
    options = parser.parse_args(argv)
    if options.verify:
        require_math_verify()
    text = sys.stdin.read() if options.text == "-" else options.text
    if not options.reference.strip():
        raise ConfigError("--reference is empty; give the right answer, such as --reference '\\frac{1}{2}'")
    for name, value in _lines(text, options.reference, options.verify):
        print(f"{name:<11} {value}")
    return 0


def _lines(text: str, reference: str, verify: bool) -> list[tuple[str, str]]:
    found = extract(text)
    grade = Grading().grade(text, reference)
    lines = [
        ("answer", f"{found.answer or '(none)'}   (found by: {found.rule})"),
        ("reference", reference),
        ("read", _reading(found.answer)),
        ("beside", _reading(reference)),
        ("verdict", f"{grade.verdict}   (stage: {grade.stage}; {grade.detail.partition(';')[0]})"),
    ]
    if verify:
        opinion = ask(text, reference).result()
        lines.append(("math-verify", f"{opinion.verdict}"))
    return lines


def _reading(text: str) -> str:
    """The tree of an answer in a short prefix notation, or why there is none."""
    side = Read(text)
    return _prefix(side.node) if side.node is not None else f"not read: {side.reason or 'nothing there'}"


def _prefix(node: object) -> str:
    if not isinstance(node, tuple):
        return str(node)
    if node and node[0] in ("num", "sym", "const"):
        return str(node[1])
    parts = [_prefix(part) for part in node if part != ""]
    return "(" + " ".join(parts) + ")"
