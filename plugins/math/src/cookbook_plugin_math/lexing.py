r"""An answer in LaTeX or plain text -> tokens. Layout (`\left`, `\,`, `$`, `\displaystyle`) is no token.

A token is (kind, text): "num" (a decimal numeral), "word" (letters, or the content of \text{}), "name" (one
symbol or a known name, "pi" for \pi and π alike), "op" (operators, relations and brackets), "sep" (a comma, a
semicolon, "and", "or").
"""

from __future__ import annotations

import re
import unicodedata

from .errors import Unreadable

Token = tuple[str, str]

MAX_CHARS = 4000  # of an answer, runs of white space counted as one
MAX_TOKENS = 2000

_TEXT = (
    "text|mbox|textbf|textit|textrm|textnormal|textsf|mathrm|mathbf|mathit|mathsf|mathbb|operatorname|hbox|rm"
)
_TOKEN = re.compile(
    r"(?P<num>\d{1,3}(?:(?:,\\!\s?|\{,\}|\\,\s?|,)\d{3}(?!\d))+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
    rf"|\\(?:{_TEXT})\*?\s*\{{(?P<text>[^{{}}]*)\}}"
    r"|\\(?:begin|end)\{(?P<matrix>[pbvBV]?(?:small)?matrix|array)\*?\}(?P<columns>\{[^{}]*\})?"
    r"|(?P<layout>\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|biggl?|biggr?|middle)(?![A-Za-z])\s*\.?"
    r"|\\(?:displaystyle|textstyle|limits|quad|qquad|mathop|mathrm|mathbf|text|rm|bf)(?![A-Za-z])"
    r"|\\[,;:! ()\[\]$]|[\s$~])"
    r"|\\(?P<command>[A-Za-z]+)|\\(?P<row>\\)|\\(?P<escaped>[{}%|#&_])"
    r"|(?P<letters>[A-Za-z]+)|(?P<op>\*\*|<=|>=|!=|==|->|[^\sA-Za-z\d\\])"
)
_GROUPS = re.compile(r",\\!\s?|\{,\}|\\,\s?|,")

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/", "∕": "/",
    "≤": "<=", "≥": ">=", "≠": "!=", "≈": "=", "≡": " \\equiv ", "±": " \\pm ", "∓": " \\mp ",
    "∞": " \\infty ", "π": " \\pi ", "√": " \\sqrt ", "∪": " \\cup ", "∩": " \\cap ", "∈": " \\in ",
    "∅": " \\emptyset ", "ℝ": " \\mathbb{R} ", "∖": " \\setminus ", "⟨": " \\langle ",
    "⟩": " \\rangle ", "£": " ", "€": " ", "¥": " ", "\u2061": "",
}  # fmt: skip
_SIGN = re.compile("[" + "".join(_SIGNS) + "]")
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\s*\\(?:circ|degree)(?![A-Za-z])")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,40})\.(\d{0,40})\\(?:overline|bar)\s*\{(\d{1,40})\}")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")

_COMMANDS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "over": "over", "le": "<=", "leq": "<=",
    "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=",
    "neq": "!=",
    "approx": "=", "equiv": "≡", "pm": "±", "mp": "∓", "in": "∈", "cup": "∪", "cap": "∩", "setminus": "∖",
    "backslash": "∖", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lVert": "|", "rVert": "|",
    "lbrace": "{{", "rbrace": "}}", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉", "colon": ":", "prime": "'", "lparen": "(", "rparen": ")",
    "lbrack": "[", "rbrack": "]", "to": "→", "rightarrow": "→",
}  # fmt: skip
_NAMES = {
    "infty": "inf", "infinity": "inf", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "varnothing": "emptyset", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "arccot": "acot", "arcsec": "asec", "arccsc": "acsc", "varphi": "phi", "varepsilon": "epsilon",
    "vartheta": "theta", "bmod": "mod", "sgn": "sign", "iint": "int", "overline": "overline",
}  # fmt: skip
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh coth sech csch log ln lg exp max "
    "min gcd lcm sign".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon "
    "phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_PLAIN = (
    FUNCTIONS | GREEK | frozenset("sqrt pi inf frac binom arcsin arccos arctan infinity infty mod".split())
)
_CONSTANTS = frozenset("pi inf emptyset".split())
_NO_SOLUTION = re.compile(r"no (?:real |integer |such )?solutions?|empty set|none exist", re.IGNORECASE)


def clean(text: str) -> str:
    """The text with white space collapsed, signs outside ASCII in LaTeX's words, no closing punctuation.

    Raises `Unreadable` for one that is too long.
    """
    text = " ".join(text[: 50 * MAX_CHARS].split())
    if len(text) > MAX_CHARS:
        raise Unreadable(f"longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = _RAISED.sub(lambda m: "^{" + m.group().translate(_RAISED_DIGITS) + "}", text)
        text = _SIGN.sub(lambda m: _SIGNS[m.group()], text)
        text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc"))
    if "circ" in text or "\\degree" in text:
        text = _DEGREE.sub("°", text)
    if ".\\" in text or "\\overline" in text or "\\bar" in text:
        text = _REPEATING.sub(_fraction, text)
    while text and (text[-1] in " .,;:" or text.endswith(("\\!", "**"))):
        text = text[:-2] if text.endswith(("\\,", "\\;", "\\:", "\\!", "\\ ", "**")) else text[:-1]
    return text.strip(" ~")


def _fraction(repeating: re.Match[str]) -> str:
    """0.8\\overline{4} as a fraction: (84 - 8) / 90."""
    whole, fixed, period = repeating.groups()
    numerator = int(whole + fixed + period) - int((whole + fixed) or "0")
    return f"\\frac{{{numerator}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a cleaned text. Raises `Unreadable`."""
    return tuple(_Lexer(text).run())


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Token] = []
        self.depth = 0

    def run(self) -> list[Token]:
        at = 0
        found = self.found
        for match in _TOKEN.finditer(self.text):
            if match.start() != at:
                break
            at = match.end()
            kind = match.lastgroup or ""
            if kind == "num" and "," not in (text := match.group()):
                found.append(("num", text))
            elif kind != "layout":
                _READERS[kind](self, match.group(kind), match)
        if at < len(self.text):
            raise Unreadable(f"a stray {self.text[at]!r}")
        if len(found) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} tokens")
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
        if "$" in text or re.fullmatch(r"[\s\d.,/+-]*", text):
            self.found += _Lexer(text).run()
            return
        word = text.strip(" ~")
        family = match.group()[1:7]
        if family == "mathbb":
            self._add("name", "ℝ" if word == "R" else word)
        elif re.fullmatch(r"\(?[A-Za-z]\)?", word):
            unit = self.found and self.found[-1][0] == "num" and text != word
            self._add("word" if unit else "name", word.strip("()"))
        else:
            self._words(word)

    def _words(self, text: str) -> None:
        if _NO_SOLUTION.fullmatch(text.strip(" .")):
            self._add("name", "emptyset")
            return
        for part in re.split(r"\b(and|or|percent|degrees?)\b", text):
            part = part.strip(" ~,.")
            if part in ("and", "or"):
                self._add("sep", part)
            elif part in ("percent", "degree", "degrees"):
                self._add("op", "%" if part == "percent" else "°")
            elif part in _PLAIN or part in _NAMES:
                self._add("name", _NAMES.get(part, part))
            elif part:
                self._add("word", part)

    def _letters(self, text: str, match: re.Match[str]) -> None:
        if len(text) == 1 or text in _PLAIN:
            self._add("name", _NAMES.get(text, text))
        elif text in ("and", "or", "percent", "degrees", "degree"):
            self._words(text)
        elif len(text) <= 3 and len(set(text)) == len(text) and not self._is_unit(text):
            for letter in text:
                self._add("name", letter)
        else:
            self._add("word", text)

    def _is_unit(self, text: str) -> bool:
        from .units import UNITS

        return bool(self.found) and self.found[-1][0] != "name" and text in UNITS

    def _matrix(self, text: str, match: re.Match[str]) -> None:
        begins = match.group().startswith("\\begin")
        self.depth += 1 if begins else -1
        self._add("op", "matrix" if begins else "endmatrix")

    _columns = _matrix

    def _command(self, text: str, match: re.Match[str]) -> None:
        if text in _COMMANDS:
            self._op(_COMMANDS[text], match)
        else:
            self._add("name", _NAMES.get(text, text))

    def _row(self, text: str, match: re.Match[str]) -> None:
        self._add("op", "\\\\")

    def _escaped(self, text: str, match: re.Match[str]) -> None:
        if text in "{}":
            self._op(text * 2, match)
        elif text in "%|":
            self._add("op", text)

    def _op(self, text: str, match: re.Match[str]) -> None:
        if text in ("(", "[", "{{", "⟨"):
            self.depth += 1
        elif text in (")", "]", "}}", "⟩"):
            self.depth -= 1
        self._add("sep" if text in ",;" else "op", {"**": "^", "==": "="}.get(text, text))


_READERS = {name: getattr(_Lexer, f"_{name}") for name in _TOKEN.groupindex if name != "layout"}
