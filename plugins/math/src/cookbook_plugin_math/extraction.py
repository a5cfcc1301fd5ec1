r"""Takes the final answer out of a reply. Every scan is linear in the length of the text."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Rule = Literal["box", "tag", "marker", "phrase", "last line", "whole", "none"]

_MAX_TEXT = 1_000_000  # characters; of a longer reply the end is read
_MAX_LINE = 4000  # characters of a sentence that are looked at
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACES = re.compile(r"\\[\\{}]|[{}]")
_UNBRACED = re.compile(r"\\[A-Za-z]+|[^\s\\${}]+")
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_ANSWER = re.compile(
    r"\b(?:answer|option|choice)\b[\s*_]{0,8}(?:(?:is|:|=)[\s*_:]{0,8})+"
    r"|\banswer[\s*_]{0,8}(?=\$|\\\(|\\\[)",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:thus|so|hence|therefore|then|finally|we get|we have)\b[\s,:]{0,4}){1,3}", re.IGNORECASE
)
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_WORDS_OF_MATH = re.compile(r"\\(?:text|mbox|mathrm|textbf)\{[^{}]*\}")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?\s*\\?%?")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_NAMES = frozenset("sqrt pi sin cos tan cot sec csc log ln exp frac and or mod infinity text".split())


class Extracted(NamedTuple):
    r"""answer: what the reply gives as its answer, "" when it gives none. rule: how that was found.

    "box": the last balanced \boxed{} or \fbox{}. "tag": what stands in the last <answer></answer>. "marker":
    what follows the last "####" in its line. "phrase": what follows the last "the answer is" or "Answer:".
    "last line": the last formula or number of the last line. "whole": all of a reply that is no sentence.
    "none": there is nothing.
    """

    answer: str
    rule: Rule


def extract(text: str) -> Extracted:
    """The final answer of a reply, with the rule that found it. A box wins over words. Never raises."""
    text = text[-_MAX_TEXT:].rpartition("</think>")[2]
    box = _last_box(text)
    if box is not None:
        return Extracted(box.strip(), "box" if box.strip() else "none")
    text = next((part.strip() for part in _CONTROL.split(text) if part.strip()), "")
    if not text:
        return Extracted("", "none")
    tagged = text.rpartition("<answer>")[2].partition("</answer>")
    if "<answer>" in text and tagged[1]:
        return Extracted(tagged[0].strip(), "tag")
    if "####" in text:
        line = text.rpartition("####")[2].strip().partition("\n")[0]
        return Extracted(line.strip(), "marker")
    return _in_words(text)


def _last_box(text: str) -> str | None:
    r"""The content of the last balanced \boxed{...}, or of \boxed without braces; None without any."""
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    for starts in ([_BOX.match(text, last)], list(_BOX.finditer(text))):  # the last one nearly always does
        ends = [match.end() for match in starts if match]
        closed = _closing(text, ends)
        for at in reversed(ends):
            if at in closed:
                return text[at + 1 : closed[at]]
            if text[at : at + 1] not in ("{", "") and (token := _UNBRACED.match(text, at)):
                return token.group()
    return None


def _closing(text: str, wanted: list[int]) -> dict[int, int]:
    """{place of an opening brace: place of the one that closes it}, of the wanted ones, in one pass.

    A brace that closes nothing is passed over; an escaped one is text.
    """
    pairs: dict[int, int] = {}
    opened: list[int] = []
    left = set(wanted)
    for match in _BRACES.finditer(text, wanted[0]) if wanted else ():
        brace = match.group()
        if brace == "{":
            opened.append(match.start())
        elif brace == "}" and opened and (start := opened.pop()) in left:
            pairs[start] = match.start()
            left.discard(start)
            if not left:
                break
    return pairs


def _in_words(text: str) -> Extracted:
    """The answer of a reply without a box or a marker."""
    phrase = _last(_ANSWER, text)
    if phrase is not None and (rest := text[phrase.end() :].strip()):
        return Extracted(_of_sentence(rest).strip(), "phrase")
    lines = [line.strip() for line in text[-_MAX_LINE:].splitlines() if line.strip()]
    answer = _last_given(lines[-1]) if _is_sentence(lines[-1]) else _LEAD.sub("", lines[-1], count=1)
    answer = answer.strip()
    return Extracted(answer, "whole" if answer == text else "last line")


def _is_sentence(line: str) -> bool:
    """Whether it is words that tell the answer: three of them besides formulas and names of functions."""
    bare = _MATH.sub(" ", _WORDS_OF_MATH.sub(" ", line))
    return sum(word.lower() not in _NAMES for word in _WORD.findall(bare)) >= 3


def _of_sentence(rest: str) -> str:
    """What a sentence that began with "the answer is" gives: its formula, or its words up to its end."""
    rest = rest[:_MAX_LINE].lstrip("*_: ")
    formula = _MATH.match(rest)
    if formula:
        return next(part for part in formula.groups() if part is not None)
    line = rest.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    sentence = (line[: end.start()] if end else line).strip(" *_")
    return _last_given(sentence) if _is_sentence(sentence) else sentence


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _last_given(line: str) -> str:
    """The last formula of a line, or the last number where one comes after it; else the line."""
    formula = _last(_MATH, line)
    start = formula.end() if formula else 0
    numbers = list(_NUMBER.finditer(line, start))
    if numbers:
        return numbers[-1].group()
    if formula:
        return next(part for part in formula.groups() if part is not None)
    return line
