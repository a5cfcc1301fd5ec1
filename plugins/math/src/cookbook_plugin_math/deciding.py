"""The stages of grading one answer, from the cheapest on.

`decide` runs the same stages wherever it is called: without symbols in the process that grades (it raises
`NeedsSymbols` where they are wanted), with them in a worker that can be killed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from cookbook.types import Verdict

from .cleaning import clean
from .comparing import Comparison, Symbols
from .errors import Undecided, Unreadable
from .lexing import tokens
from .nodes import Node
from .parsing import parse
from .shapes import spread

_PLAIN_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s?(?:(?P<whole>\d{1,3}(?:,\d{3}){1,90}|\d{1,300})(?:\.(?P<part>\d{1,4}))?"
    r"|(?:\\[dt]?frac\s?\{(?P<top>\d{1,300})\}\s?\{(?P<bottom>\d{1,300})\}|(?P<over>\d{1,300})\s?/\s?(?P<under>\d{1,300})))",
    re.ASCII,
)
_LETTER = re.compile(r"\(?([A-J])\)?")
_CHOICE = re.compile(
    r"(?:(?:option|choice) )?(?:[(\[]([A-J])[)\]](?!\w)|([A-J])(?:[.:)](?!\d)|$))(.*)", re.IGNORECASE
)
_HEDGE = re.compile(r"\b(?:[B-J]|or|and|not|wrong|maybe)\b|\([A-J]\)|\bA[).:]", re.IGNORECASE)
_WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf)\s*\{|\\[,;:! ]|[{}$~]|\\(?=[()])"
)
_NUMERIC = re.compile(r"(?:[^A-Za-z\\]|\\frac|\\sqrt|\\pi|\\cdot|\\times)+")
_GROUPED = re.compile(r"\d,\d{3}(?!\d)")
_NAMED = re.compile(
    r"\\?[A-Za-z]+(?:_\{?\w+\}?|'|\^\{-1\})?\s?(?:\\left)?\([^=]{1,60}\)\s?=\s?([^=]+)", re.ASCII
)  # P(X > 1) = 1/2, f^{-1}(2) = 5
_TAIL = re.compile(
    r",?\s?(?:\\q?quad\s?)?(?:\\text\{\s?(?:for (?:all|any|some)|where|with)\b[^{}]*\}"
    r"|\b(?:for all|for any|where)\b|\\forall(?![A-Za-z])).*"
    r"|,?(?:\s|\\[ ,;]|\\q?quad)?\s?\(?\s?[a-zA-Z]\s?\\in\s?\\mathbb\s?\{?Z\}?\s?\)?$"
)
_TAIL_WORD = re.compile(r"where|for|with|\\in(?![a-z])")
_BASED = re.compile(r"\(?([0-9A-Fa-f]{1,200})\)?_\(?(\d{1,2}|[a-z]{3,9})\)?", re.ASCII)
_BASES = {name: str(n) for n, name in enumerate("two three four five six seven eight nine ten".split(), 2)}
_MEASURED = re.compile(r"(.*[\d})$])\s([mgshLNJ]|[cmk]?m\^\{?[23]\}?)")
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
        self._tree: tuple[Node | None, str] | None = None
        try:
            self.text = clean(text)
            self.tokens = tokens(self.text)
        except Unreadable as e:
            self._unread = str(e)
        self.has_words = any(token[0] == "word" for token in self.tokens)
        self.tail = _TAIL.search(self.text) if _TAIL_WORD.search(self.text) else None
        self.letter = _LETTER.fullmatch(_words(self.text)) if len(self.text) < 20 else None

    @property
    def node(self) -> Node | None:
        """The tree, with ± written out; None where there is none, for `reason`."""
        return self._parsed()[0]

    @property
    def reason(self) -> str:
        return self._parsed()[1]

    def _parsed(self) -> tuple[Node | None, str]:
        if self._tree is None:
            try:
                if self._unread:
                    raise Unreadable(self._unread)
                node = parse(self.tokens)
                signs = "\\pm" in self.text or "\\mp" in self.text
                self._tree = (spread(node) if signs else node), ""
            except Unreadable as e:
                self._tree = None, str(e)
            except RecursionError:
                self._tree = None, "nested too deeply"
        return self._tree


_read_reference = functools.lru_cache(4096)(Read)


def decide(answer: str, reference: str, symbols: Symbols | None = None) -> Decision:
    """The verdict on an answer that was taken out of a reply. Raises `NeedsSymbols` without a prober."""
    if answer.strip() == reference.strip() and reference.strip():
        return Decision("right", "text", "the same text")
    if not answer.strip():
        return Decision("wrong", "text", "no answer")
    one = _plain_number(answer)
    other = _known_number(reference) if one is not None else None
    if one is not None and other is not None:
        return Decision("right" if one == other else "wrong", "number", "two numerals")
    known, given = _bodies(_read_reference(reference), Read(answer))
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


_known_number = functools.lru_cache(4096)(_plain_number)


def _bodies(known: Read, given: Read) -> tuple[Read, Read]:
    """Without "for all x" where not only the reference says so, and without P(A) = before a value."""
    one, other = known.tail, given.tail
    if (one or other) and (not (one and other) or _said(one.group()) == _said(other.group())):
        known = _read_reference(known.text[: one.start()]) if one and one.start() else known
        given = Read(given.text[: other.start()]) if other and other.start() else given
    if "=" in given.text and "=" not in known.text and (named := _NAMED.fullmatch(given.text)):
        given = Read(named[1])
    measured = _MEASURED.fullmatch(given.text) if given.text[-1:] in "mgshLNJ23}" else None
    if measured and (known.has_words or _NUMERIC.fullmatch(known.text)):
        given = Read(rf"{measured[1]}\text{{ {measured[2]}}}")  # 5 m, where m is no symbol of the reference's
    return known, given


def _said(tail: str) -> str:
    return re.sub(r"\\(?:text|q?quad|in|mathbb|forall)|\b(?:where|for|all|any)\b|[^A-Za-z]", "", tail)


def _by_text(known: Read, given: Read) -> Decision | None:
    """Choice letters and words; None where the answer is mathematics."""
    if base := _based(known.text):
        return Decision("right" if base == _based(given.text) else "wrong", "number", f"in base {base[1]}")
    letter = known.letter
    choice = _CHOICE.fullmatch(_words(given.text)) if letter else None
    if letter and choice and not _HEDGE.search(choice[3]):
        found = choice[1] or choice[2]
        same = found == letter[1] or (found.upper() == letter[1] and letter.group() != letter[1])
        return Decision("right" if same else "wrong", "choice", f"the letter {found}")
    if known.has_words or given.has_words:
        one, other = (
            _ARTICLE.sub("", _words(side.text).casefold().strip(" .,:;!"), count=1) for side in (known, given)
        )
        if one == other:
            return Decision("right", "normal", "the same words")
    if known.has_words and (known.node is None or all(kind in ("word", "sep") for kind, _ in known.tokens)):
        return Decision("wrong", "text", "other words")
    return None


def _based(text: str) -> tuple[str, str] | None:
    """(digits, base) of a numeral with its base; None for anything else, x_2 among it."""
    if "_" not in text:
        return None
    match = _BASED.fullmatch(re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}|[{}\s]", r"\1", text))
    if match is None or len(match[1]) == 1:
        return None
    digits, base = match[1], _BASES.get(match[2].lower(), match[2])
    if not any(map(str.isdigit, digits)) and not (digits.isupper() and base in ("12", "16")):
        return None  # x_2, ab_3
    return digits.upper(), base


def _words(text: str) -> str:
    """The text without what only sets it: \\text{}, braces, spacing, quotation marks around it."""
    if "\\" in text or "{" in text:
        text = " ".join(_WRAPPER.sub(" ", text).split())
    text = text.strip("$ ")
    quoted = len(text) > 2 and text[0] in "\"'`" and text[-1] in "\"'"
    return text.strip("\"'`") if quoted else text


def _by_tree(known: Read, given: Read, symbols: Symbols | None) -> Decision:
    if known.node is None:
        return Decision("undecided", "reading", f"the reference isn't read: {known.reason}")
    if given.node is None:
        return Decision("wrong", "reading", f"the answer isn't read: {given.reason}")
    stage = "symbolic" if symbols else "structure"
    try:
        same = any(Comparison(symbols).same(one, other) for one, other in _readings(known, given))
    except Undecided as e:
        return Decision("undecided", stage, str(e))
    except RecursionError:
        return Decision("undecided", stage, "nested too deeply")
    if known.node[0] == given.node[0] == "num":
        stage = "number"
    return Decision("right" if same else "wrong", stage, "equal" if same else "different")


def _readings(known: Read, given: Read) -> Iterator[tuple[Node, Node]]:
    """What the two may mean: as they stand, then with 100,200 on one side as two numbers."""
    if known.node is None or given.node is None:
        return
    yield known.node, given.node
    for side in (known, given):
        if _GROUPED.search(side.text) and "(" not in side.text and "{" not in side.text:
            listed = Read(side.text.replace(",", ", ")).node
            if listed is not None:
                yield (listed, given.node) if side is known else (known.node, listed)
