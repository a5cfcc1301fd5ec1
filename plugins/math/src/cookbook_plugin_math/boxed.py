r"""Reads an answer out of \boxed{...}."""

from __future__ import annotations

import re

# An escaped brace is a character of the answer, and a backslash before it may itself be escaped.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_UNBRACED = re.compile(r"\\boxed\s*([^\s$\\{}]+)")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...} whose braces match, stripped; else after \boxed.

    None where there is neither, or nothing in it. Takes time in proportion to the text, and never raises.
    """
    opened: list[tuple[bool, int]] = []  # (whether it is a box, where its content begins)
    begin, end = -1, -1
    for token in _TOKEN.finditer(text):
        if token[0] == "}":
            is_box, at = opened.pop() if opened else (False, -1)
            if is_box and at > begin:
                begin, end = at, token.start()
        elif token[0].endswith("{") and token[0] != "\\{":
            opened.append((token[0] != "{", token.end()))
    if begin < 0:
        words = _UNBRACED.findall(text)
        return (words[-1].rstrip(".,;:") or None) if words else None
    return text[begin:end].strip() or None
