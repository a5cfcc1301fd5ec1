"""The stages of grading one answer, from the cheapest on.

`decide` runs the same stages wherever it is called: without symbols in the process that grades (it raises
`NeedsSymbols` where they are wanted), with them in a worker that can be killed.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import NamedTuple

from cookbook.types import Verdict

from .comparing import Comparison, Symbols
from .errors import Undecided, Unreadable
from .lexing import clean, tokens
from .nodes import Node
from .parsing import parse
from .shapes import spread

_PLAIN_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s?(?:(?P<whole>\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.(?P<part>\d{1,4}))?"
    r"|(?:\\[dt]?frac\s?\{(?P<top>\d{1,300})\}\s?\{(?P<bottom>\d{1,300})\}|(?P<over>\d{1,300})\s?/\s?(?P<under>\d{1,300})))",
    re.ASCII,
)
_LETTER = re.compile(r"\(?([A-J])\)?")
_CHOICE = re.compile(
    r"(?:(?:option|choice) )?(?:\(([A-J])\)(?!\w).*|([A-J])(?:[.:)](?!\d).*)?)", re.IGNORECASE
)
_WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf)\s*\{|\\[,;:! ]|[{}$~]|\\(?=[()])"
)
_ARTICLE = re.compile(r"(?:an?|the) ")


class Decision(NamedTuple):
    """stage: the name of the stage that decided. detail: why, in one line."""

    verdict: Verdict
    stage: str
    detail: str = ""


class Read:
    """One side: its cleaned text, tokens and tree; the reason where one can't be had. Never raises."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self._unread = text.strip()[:80], (), ""
        try:
            self.text = clean(text)
            self.tokens = tokens(self.text)
        except Unreadable as e:
            self._unread = str(e)

    @property
    def node(self) -> Node | None:
        """The tree, with ± written out; None where there is none, for `reason`."""
        return self._tree[0]

    @property
    def reason(self) -> str:
        return self._tree[1]

    @functools.cached_property
    def _tree(self) -> tuple[Node | None, str]:
        if self._unread:
            return None, self._unread
        try:
            node = parse(self.tokens)
            return spread(node) if "\\pm" in self.text or "\\mp" in self.text else node, ""
        except Unreadable as e:
            return None, str(e)
        except RecursionError:
            return None, "nested too deeply"


_read_reference = functools.lru_cache(4096)(Read)


def decide(answer: str, reference: str, symbols: Symbols | None = None) -> Decision:
    """The verdict on an answer that was taken out of a reply. Raises `NeedsSymbols` without a prober."""
    if answer.strip() == reference.strip() and reference.strip():
        return Decision("right", "text", "the same text")
    if not answer.strip():
        return Decision("wrong", "text", "no answer")
    one, other = _plain_number(answer), _plain_number(reference)
    if one is not None and other is not None:
        return Decision("right" if one == other else "wrong", "number", "two numerals")
    known, given = _read_reference(reference), Read(answer)
    if known.tokens and known.tokens == given.tokens:
        return Decision("right", "normal", "the same symbols")
    return _by_text(known, given) or _by_tree(known, given, symbols)


def _plain_number(text: str) -> int | Fraction | None:
    r"""The value of a bare numeral or fraction, without reading a tree: 1,234 or -0.5 or 3/4 or \frac{3}{4}.

    Not of a decimal with five places or more: it may be a rounding.
    """
    match = _PLAIN_NUMBER.fullmatch(text.strip(" $").removesuffix("."))
    if match is None:
        return None
    sign, whole, part, top, bottom, over, under = match.groups()
    if whole:
        value = int(whole.replace(",", ""))
        if part:
            value += Fraction(int(part), 10 ** len(part))
    else:
        numerator, denominator = int(top or over), int(bottom or under)
        if not denominator:
            return None
        value = Fraction(numerator, denominator)
    return -value if sign == "-" else value


def _by_text(known: Read, given: Read) -> Decision | None:
    """Choice letters and words; None where the answer is mathematics."""
    letter = _LETTER.fullmatch(_words(known.text))
    if letter and (choice := _CHOICE.fullmatch(_words(given.text))):
        found = choice[1] or choice[2]
        same = found == letter[1] or (found.upper() == letter[1] and letter.group() != letter[1])
        return Decision("right" if same else "wrong", "choice", f"the letter {found}")
    has_words = any(kind == "word" for kind, _ in known.tokens)
    if has_words or any(kind == "word" for kind, _ in given.tokens):
        one, other = (
            _ARTICLE.sub("", _words(side.text).casefold().strip(" .,:;!"), count=1) for side in (known, given)
        )
        if one == other:
            return Decision("right", "normal", "the same words")
    if has_words and (known.node is None or all(kind in ("word", "sep") for kind, _ in known.tokens)):
        return Decision("wrong", "text", "other words")
    return None


def _words(text: str) -> str:
    return " ".join(_WRAPPER.sub(" ", text).split()) if "\\" in text or "{" in text else text.strip("$ ")


def _by_tree(known: Read, given: Read, symbols: Symbols | None) -> Decision:
    if known.node is None:
        return Decision("undecided", "reading", f"the reference isn't read: {known.reason}")
    if given.node is None:
        return Decision("wrong", "reading", f"the answer isn't read: {given.reason}")
    stage = "symbolic" if symbols else "structure"
    try:
        same = Comparison(symbols).same(known.node, given.node)
        if not same and (other := _as_list(given)) is not None:
            same = Comparison(symbols).same(known.node, other)
        if not same and (other := _as_list(known)) is not None:
            same = Comparison(symbols).same(other, given.node)
    except Undecided as e:
        return Decision("undecided", stage, str(e))
    except (RecursionError, Unreadable) as e:
        return Decision("undecided", stage, f"{type(e).__name__}")
    if known.node[0] == given.node[0] == "num":
        stage = "number"
    return Decision("right" if same else "wrong", stage, "equal" if same else "different")


def _as_list(side: Read) -> Node | None:
    """100,200 as two numbers; None where no comma may be read so."""
    if not re.search(r"\d,\d{3}(?!\d)", side.text) or "(" in side.text or "{" in side.text:
        return None
    return _read_reference(side.text.replace(",", ", ")).node
