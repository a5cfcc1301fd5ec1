r"""Takes the final answer out of a reply. Every scan is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from .units import NUMBERS

Rule = Literal["box", "tag", "marker", "phrase", "last line", "whole", "none"]

_MAX_TEXT = 200_000  # characters; of a longer reply the end is read
_MAX_LINE = 1000  # characters of a sentence that are looked at
_MAX_BRACES = 10_000  # that are looked at; no answer that can be read has so many

_BRACES = re.compile(r"\\[\\{}]|[{}]")
_OPENING = re.compile(r"\\(?:boxed|fbox)\s*")
_SIMPLE = re.compile(r"\{([^{}\\]{0,200})\}")
_UNBRACED = re.compile(r"\\(?!boxed|fbox)[A-Za-z]+|[^\s\\${}]+")
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_ANSWER = re.compile(
    r"\b(?:answers?|option|choice)\b[\s*_]{0,8}(?:(?:is|are|therefore|then|:|=)[\s*_:]{0,8})+"
    r"|\banswers?[\s*_]{0,8}(?=\$|\\\(|\\\[)",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?<!\\)(?:\b(?:thus|so|hence|therefore|then|finally|we get|we have|total|result)\b[\s,:]{0,4}){1,3}",
    re.IGNORECASE,
)
_CHUNK = re.compile(r"(?:\\(?:text|mbox|mathrm|textbf|begin|end)\s?\{[^{}]{0,200}\}|\S)+")
_COMMAND = re.compile(r"\\[A-Za-z]+\s?(?:\{[^{}]*\})?")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_SENTENCE_END = re.compile(r"(?:[.?]|(?<=[a-z]{3})!)(?=\s|$)")
_DISPLAYED = re.compile(r"\s*(?:\\\[(.{1,900}?)\\\]|\$\$(.{1,900}?)\$\$)", re.DOTALL)
_FORMULA = re.compile(r"\$+([^$]*)\$+|\\\(((?:(?!\\\)).)*)\\\)")
_NAMES = frozenset(
    "sqrt pi sin cos tan cot sec csc log ln exp frac and or mod inf infinity text union max min gcd lcm "
    "arcsin arccos arctan sinh cosh tanh alpha beta gamma delta theta lambda mu phi omega sigma".split()
)
_SHORT_WORDS = frozenset(
    "is of to we he it in at by so an as if on be no do my up us am are was".split()
)  # words of two letters that are no product
_NAME_ONLY = re.compile(r"\W*[A-Za-z]\W*")
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{3,40}:\s*(?=\S)")
_SIGNS = frozenset("+-*/=<>^≤≥≠≈±,;:)]}\\")


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
    tagged = text.rpartition("<answer>")
    if tagged[1] and "</answer>" in tagged[2]:
        return Extracted(tagged[2].partition("</answer>")[0].strip(), "tag")
    return _after_marker(text) or _in_words(text)


def boxed(text: str) -> str | None:
    r"""What stands in the last balanced \boxed{} or \fbox{}, stripped; None where that is nothing."""
    return (_last_box(text[-_MAX_TEXT:]) or "").strip() or None


def _last_box(text: str) -> str | None:
    r"""The content of the last balanced \boxed{...}, or of \boxed without braces; None without any."""
    at, braces = len(text), 0
    while braces < _MAX_BRACES:
        at = max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))
        opening = _OPENING.match(text, at) if at >= 0 else None
        if opening is None:
            return None
        begin = opening.end()
        if simple := _SIMPLE.match(text, begin):
            return simple[1]
        if text[begin : begin + 1] != "{":
            braces += 1
            if token := _UNBRACED.match(text, begin):
                return token.group()
            continue
        depth = 0
        for match in _BRACES.finditer(text, begin):
            braces += 1
            depth += {"{": 1, "}": -1}.get(match.group(), 0)
            if not depth:
                return text[begin + 1 : match.start()]
            if braces >= _MAX_BRACES:
                break
    return None


def _after_marker(text: str) -> Extracted | None:
    """What the last #### announces; None where it is a heading, or there is none."""
    _, marker, after = text.rpartition("####")
    if not marker:
        return None
    line, _, rest = after.strip()[:_MAX_TEXT].partition("\n")
    line = line.strip(" *_#")
    if phrase := _ANSWER.match(line) or _ANSWER.search(line):
        line = line[phrase.end() :].strip(" *_")
    elif rest.strip() and not any(first == 0 for first, _ in _runs(line)):
        return _in_words(rest)  # a heading
    return Extracted(_of_sentence(line), "marker") if line else None


def _in_words(text: str) -> Extracted:
    """The answer of a reply without a box or a marker."""
    phrase = None
    for found in _ANSWER.finditer(text, max(0, len(text) - 20 * _MAX_LINE)):
        phrase = found
    if phrase is not None and (rest := text[phrase.end() :].strip()):
        if displayed := _DISPLAYED.match(rest):
            return Extracted((displayed[1] or displayed[2]).strip(), "phrase")
        return Extracted(_of_sentence(rest.lstrip("*_: ").partition("\n")[0]), "phrase")
    lines = [line.strip() for line in text[-20 * _MAX_LINE :].splitlines() if line.strip()]
    if len(lines) > 1 and lines[-1] in ("\\]", "$$"):
        lines.append(lines[-2])  # a displayed formula of its own lines
    last = lines[-1][-_MAX_LINE:] if len(lines) > 1 or _is_sentence(lines[-1]) else lines[-1]
    answer = _last_given(last) if _is_sentence(last) else _unlabelled(last)
    return Extracted(answer, "whole" if answer == text else "last line")


def _unlabelled(line: str) -> str:
    """Without "Thus" and "Total cost:" before an answer."""
    line = _LEAD.sub("", line, count=1).strip()
    label = _LABEL.match(line)
    return line[label.end() :] if label else line


def _of_sentence(sentence: str) -> str:
    """What follows "the answer is": its first formula or number, or all words up to the sentence's end."""
    sentence = sentence[:_MAX_LINE]
    end = _SENTENCE_END.search(sentence)
    sentence = (sentence[: end.start()] if end else sentence).strip(" *_")
    runs = list(_runs(sentence))
    if runs and runs[0][0] == 0 and _says_something(runs[0][1]):
        return _trimmed(runs[0][1])
    return _last_given(sentence) if _is_sentence(sentence) else sentence


def _last_given(line: str) -> str:
    """The last run of formulas and numbers in a line, joined by commas, "and" and "or"; else the line."""
    found = [run for _, run in _runs(line) if _says_something(run)]
    strong = [run for run in found if not _NAME_ONLY.fullmatch(run)]
    return _trimmed((strong or found)[-1]) if found else line


def _runs(line: str) -> Iterator[tuple[int, str]]:
    """(number of the first chunk, text) of each run of chunks that are no words."""
    chunks = list(_CHUNK.finditer(line))
    begin = None
    for i, chunk in enumerate(chunks):
        following = chunks[i + 1].group() if i + 1 < len(chunks) else ""
        is_word = _is_word(chunk.group(), following)
        if begin is None and not is_word and chunk.group() not in ("and", "or"):
            begin = i
        if begin is not None and is_word and chunk.group().strip(".,;") not in NUMBERS:
            yield begin, line[chunks[begin].start() : chunks[i - 1].end()]
            begin = None
    if begin is not None:
        yield begin, line[chunks[begin].start() :]


def _is_word(chunk: str, following: str) -> bool:
    if chunk in ("a", "A", "I"):
        return following[:1] not in _SIGNS
    words = _LETTERS.findall(_COMMAND.sub(" ", chunk))
    return any(
        len(word) > 2 or word.lower() in _SHORT_WORDS or not word.isascii()
        for word in words
        if word.lower() not in _NAMES
    )


def _says_something(run: str) -> bool:
    """Whether a run gives an answer: a number, a formula between signs, a choice; a name alone doesn't."""
    return bool(re.search(r"[\d=<>≤≥∞π√]|\\[A-Za-z]|\$.+\$|\\\(|\([A-J]\)|^\W*[A-J]\W*$", run))


def _trimmed(run: str) -> str:
    run = run.strip(" *_.,;:?").removesuffix(" and").strip(" .,;")
    formula = _FORMULA.fullmatch(run)
    return next(part for part in formula.groups() if part is not None).strip() if formula else run


def _is_sentence(line: str) -> bool:
    """Whether it is words that tell the answer: three of them besides formulas and names of functions."""
    if len(_LETTERS.findall(line)) < 3:
        return False
    words = 0
    for chunk in _CHUNK.finditer(line[-4 * _MAX_LINE :]):
        words += _is_word(chunk.group(), "=")
        if words == 3:
            return True
    return False
