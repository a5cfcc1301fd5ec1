r"""A cleaned answer -> tokens. Layout (`\left`, `\,`, `$`, `\displaystyle`) is no token.

A token is (kind, text): "num" (a decimal numeral), "word" (letters, or the content of \text{}), "name" (one
symbol or a known name, "pi" for \pi and pi alike), "op" (operators, relations and brackets), "sep" (a comma,
a semicolon, "and", "or").
"""

from __future__ import annotations

import re

from .errors import Unreadable
from .units import GLUED, LETTERS, UNITS

Token = tuple[str, str]

MAX_TOKENS = 2000

_TEXT = (
    "text|emph|mbox|textbf|textit|textrm|textnormal|textsf|textsc|texttt|mathrm|mathbf|mathit|mathsf|mathtt"
    "|operatorname|hbox|rm"
)
_LAYOUT = (
    "displaystyle|textstyle|limits|nolimits|quad|qquad|mathop|mathrm|mathbf|boldsymbol|bm|text|rm|bf|it|large"
    "|Large|small|underline|hline|pounds|blacksquare|ensuremath|strut|enspace|thinspace|hspace|boxed"
)
_TOKEN = re.compile(  # the likeliest first
    r"(?P<letters>[A-Za-z]+)"
    r"|(?P<num>\d{1,3}(?:(?:,\\!\s?|\{,\}|\\,\s?|,)\d{3}(?!\d))+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
    r"|(?P<op>\*\*|<=|>=|!=|==|->|[^\sA-Za-z\d\\$~])"
    r"|(?P<space>[\s$~])"
    rf"|\\(?:{_TEXT})\*?\s?\{{(?P<text>[^{{}}]*)\}}"
    r"|\\mathbb\s?\{?(?P<field>[A-Z])\}?"
    r"|\\(?:begin|end)\{(?P<matrix>[pbvBV]?(?:small)?matrix|array)\*?\}(?P<columns>\{[^{}]*\}|\[[a-z]\])?"
    r"|\\(?:begin|end)\{(?P<lines>aligned|align|cases|split|gathered|equation)\*?\}"
    r"|(?P<layout>\\(?:left|right)(?![A-Za-z])\s?(?:\.(?!\d))?"
    r"|\\(?:bigl?|bigr?|Bigl?|Bigr?|biggl?|biggr?|middle)(?![A-Za-z])"
    rf"|\\(?:{_LAYOUT})(?![A-Za-z])|\\(?:textcolor|color)\{{\w{{0,20}}\}}"
    r"|\\[,;:! ()\[\]$])"
    r"|\\(?P<command>[A-Za-z]+)|\\(?P<row>\\)(?:\s?\[\d*\.?\d+[a-z]{2}\])?|\\(?P<escaped>[{}%|#&_])",
    re.ASCII,
)
_GROUPS = re.compile(r",\\!\s?|\{,\}|\\,\s?|,")

_COMMANDS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "over": "over", "choose": "choose", "le": "<=",
    "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "≈", "equiv": "≡", "pm": "±", "mp": "∓", "in": "∈", "cup": "∪",
    "cap": "∩", "setminus": "∖", "backslash": "∖", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "lVert": "|", "rVert": "|", "lbrace": "{{", "rbrace": "}}", "langle": "⟨", "rangle": "⟩",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "colon": ":", "prime": "'", "lparen": "(",
    "rparen": ")", "lbrack": "[", "rbrack": "]", "to": "→", "rightarrow": "→",
}  # fmt: skip
_NAMES = {
    "infty": "inf", "infinity": "inf", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sfrac": "frac",
    "nicefrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "varnothing": "emptyset", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc", "varphi": "phi",
    "varepsilon": "epsilon", "vartheta": "theta", "bmod": "mod", "sgn": "sign", "iint": "int",
    "dots": "ldots", "cdots": "ldots",
}  # fmt: skip
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh coth sech csch log ln lg exp max "
    "min gcd lcm sign".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon "
    "phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"  # abcd is a product, word none
_PLAIN = (
    FUNCTIONS | GREEK | frozenset("sqrt pi inf frac binom arcsin arccos arctan infinity infty mod".split())
)
_SHORT_WORDS = frozenset(
    "the not yes one two six ten red all any day man men boy act cat dog new old top won now its his her she "
    "who how why no is of to on so if by at we he it my us do go up im or per sq".split()
)  # that aren't taken for products of letters
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?:,| and| or)\s?\(?[A-J]\)?)+")
_ANNOUNCED = re.compile(r"(?:(?:the )?(?:final )?answer(?: is)?|so|thus|therefore|about)[:,]?", re.IGNORECASE)
_ALL_REALS = re.compile(r"all real(?:s| numbers)", re.IGNORECASE)
_NO_SOLUTION = re.compile(r"no (?:real |integer |such )?solutions?|empty set|none exist", re.IGNORECASE)


def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a cleaned text. Raises `Unreadable`."""
    return tuple(_Lexer(text).run())


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Token] = []
        self.depth = self.matrices = 0

    def run(self) -> list[Token]:
        at = 0
        found = self.found
        for match in _TOKEN.finditer(self.text):
            begin, end = match.span()
            if begin != at:
                break
            at, kind = end, match.lastgroup or ""
            if kind == "num" and "," not in (text := match.group()):
                found.append(("num", text))
            elif kind not in ("space", "layout"):
                _READERS[kind](self, match.group(kind), match)
            if len(found) > MAX_TOKENS:
                raise Unreadable(f"more than {MAX_TOKENS} tokens")
        if at < len(self.text):
            raise Unreadable(f"a stray {self.text[at]!r}")
        return found

    def _add(self, kind: str, text: str) -> None:
        self.found.append((kind, text))

    def _num(self, text: str, match: re.Match[str]) -> None:
        """A numeral with commas: one number, or several within brackets, where (1,234) is a pair."""
        if self.depth and "," in text and "{,}" not in text and "\\" not in text:
            for i, part in enumerate(text.split(",")):
                if i:
                    self._add("sep", ",")
                self._add("num", part)
        else:
            self._add("num", _GROUPS.sub("", text))

    def _text(self, text: str, match: re.Match[str]) -> None:
        word = text.strip(" ~")
        if "$" in text or _CHOICES.fullmatch(word) or re.match(r"[-+]?[\d.]|[,/:+\-]+$", word):
            self.found += _Lexer(text).run()
        elif word in _PLAIN and match.group()[1] in "mor":  # \mathrm, \operatorname, \rm
            self._add("name", _NAMES.get(word, word))
        elif _ANNOUNCED.fullmatch(word):
            return
        elif re.fullmatch(r"\(?[A-Za-z]\)?", word):
            unit = word in LETTERS and self.found and self._ends_value()
            self._add("word" if unit else "name", word.strip("()"))
        else:
            self._words(word)

    def _ends_value(self) -> bool:
        kind, text = self.found[-1]
        return kind in ("num", "word") or (kind == "op" and text in ("}", ")", "°", "/")) or text == "pi"

    def _words(self, text: str) -> None:
        if _NO_SOLUTION.fullmatch(text.strip(" .")):
            self._add("name", "emptyset")
            return
        if _ALL_REALS.fullmatch(text.strip(" .")):
            self._add("name", "ℝ")
            return
        for part in re.split(r"\b(and|or|percent|degrees?)\b", text):
            part = part.strip(" ~,.")
            if part in ("and", "or"):
                self._add("sep", part)
            elif part in ("percent", "degree", "degrees"):
                self._add("op", "%" if part == "percent" else "°")
            elif part in ("pi", "infinity", "inf", "mod"):
                self._add("name", _NAMES.get(part, part))
            elif part:
                self._add("word", part)

    def _letters(self, text: str, match: re.Match[str]) -> None:
        if text in ("C", "F") and self.found and self.found[-1] == ("op", "°"):
            self._add("word", text)
        elif len(text) == 1 or text in _PLAIN:
            self._add("name", _NAMES.get(text, text))
        elif text in ("and", "or", "percent", "degrees", "degree"):
            self._words(text)
        elif text == "oo":
            self._add("name", "inf")
        elif text in ("union", "cup"):
            self._add("op", "∪")
        elif self._is_product(text, match.start()):
            for letter in text:
                self._add("name", letter)
        else:
            self._add("word", text)

    def _is_product(self, text: str, at: int) -> bool:
        """Whether letters side by side are symbols: short, no word, and no unit of what stands before."""
        glued = at > 0 and self.text[at - 1] not in " ~"
        before = self.found[-1][0] if self.found else ""
        if before in ("num", "word") and text in UNITS and (text in GLUED or not glued):
            return False
        if before == "num" and glued:
            return True
        if len(text) > 3:
            return text.lower() in _ALPHABET
        return (
            len(text) <= 3
            and text.lower() not in _SHORT_WORDS
            and not (text[0].isupper() and text[1:].islower())
        )

    def _field(self, text: str, match: re.Match[str]) -> None:
        self._add("name", {"R": "ℝ", "Z": "ℤ", "N": "ℕ", "Q": "ℚ", "C": "ℂ"}.get(text, f"mathbb {text}"))

    def _matrix(self, text: str, match: re.Match[str]) -> None:
        begins = match.group().startswith("\\begin")
        self.depth += 1 if begins else -1
        self.matrices += 1 if begins else -1
        self._add("op", "matrix" if begins else "endmatrix")

    _columns = _matrix

    def _command(self, text: str, match: re.Match[str]) -> None:
        if text == "cr":
            self._row(text, match)
        elif text in _COMMANDS:
            self._op(_COMMANDS[text], match)
        else:
            self._add("name", _NAMES.get(text, text))

    def _row(self, text: str, match: re.Match[str]) -> None:
        """The end of a row of a matrix; elsewhere, of one of several lines."""
        if self.matrices:
            self._add("op", "\\\\")
        elif self.found and self.found[-1][0] != "sep":
            self._add("sep", ",")

    def _lines(self, text: str, match: re.Match[str]) -> None:
        """Lines below each other are a list."""

    def _escaped(self, text: str, match: re.Match[str]) -> None:
        if text in "{}":
            self._op(text * 2, match)
        elif text in "%|":
            self._add("op", text)
        else:
            raise Unreadable(f"a stray {text!r}")

    def _op(self, text: str, match: re.Match[str]) -> None:
        if token := _OPERATORS.get(text):
            self.found.append(token)
            return
        if text == "&" and not self.matrices:
            return
        if text in ("(", "[", "{{", "⟨"):
            self.depth += 1
        elif text in (")", "]", "}}", "⟩"):
            self.depth -= 1
        self._add("sep" if text in ",;" else "op", text)


_OPERATORS = {sign: ("op", sign) for sign in "+-*/^_{}=<>!|:'"} | {
    "**": ("op", "^"), "==": ("op", "="), "->": ("op", "→"),
}  # fmt: skip
_READERS = {
    name: getattr(_Lexer, f"_{name}") for name in _TOKEN.groupindex if name not in ("space", "layout")
}
