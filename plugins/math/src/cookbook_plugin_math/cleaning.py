"""An answer's text before it is cut into tokens: LaTeX's words for other signs, no closing punctuation."""

from __future__ import annotations

import re
import unicodedata

from .errors import Unreadable
from .units import is_compound

MAX_CHARS = 4000  # of an answer, runs of white space counted as one

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/",
    "⁄": "/", "∕": "/", "≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "≠": "!=", "≈": " \\approx ",
    "≡": " \\equiv ", "±": " \\pm ", "∓": " \\mp ", "∞": " \\infty ", "√": " \\sqrt ",
    "∛": " \\sqrt[3] ", "∪": " \\cup ", "∩": " \\cap ", "∈": " \\in ", "∅": " \\emptyset ",
    "ℝ": " \\mathbb{R} ", "ℤ": " \\mathbb{Z} ", "ℕ": " \\mathbb{N} ", "ℚ": " \\mathbb{Q} ",
    "ℂ": " \\mathbb{C} ", "∖": " \\setminus ", "⟨": " \\langle ", "⟩": " \\rangle ", "…": " \\ldots ",
    "º": "°", "£": " ", "€": " ", "¥": " ", "¢": " ", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3",
    "⅔": " 2/3", "\u2061": "",
    **{letter: f" \\{name} " for letter, name in zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
        "phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )},
}  # fmt: skip
_SIGN = re.compile("[" + "".join(_SIGNS) + "]")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉ₙ]+")
_PLACED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789+-n0123456789n")
_DEGREE = re.compile(r"\s*\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|\s?\\(?:circ|degree)(?![A-Za-z])")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\s?\{(\d{1,40})\}", re.ASCII)
_UNITS = re.compile(
    r"(?<=[\d})$])(?:\s|\\,|~){1,2}([A-Za-z]{1,3}(?:\^?\{?[23]\}?)?/[A-Za-z]{1,3}(?:\^?\{?[23]\}?)?)"
)
_OVER = re.compile(r"\\frac\{\\(?:text|mathrm)\{\s?(\w+)\}\}\{\\(?:text|mathrm)\{\s?(\w+)\}\}$")
_LEAD = re.compile(r"(?:=|\\approx|\\therefore)\s?")


def clean(text: str) -> str:
    """The text with white space collapsed, and one spelling of every sign. Raises `Unreadable`."""
    text = " ".join(text.split())
    if len(text) > MAX_CHARS:
        raise Unreadable(f"longer than {MAX_CHARS} characters")
    if not (text.isascii() and text.isprintable()):
        text = _in_ascii(text)
    if "circ" in text or "\\degree" in text:
        text = _DEGREE.sub("°", text)
    if "\\frac{\\" in text:
        text = _OVER.sub(r"\\text{ \1/\2}", text)
    if ".\\" in text or "\\overline" in text or "\\bar" in text:
        text = _REPEATING.sub(_fraction, text)
    if "/" in text and (found := _UNITS.search(text)) and found.end() == len(text) and is_compound(found[1]):
        text = text[: found.start()] + rf"\text{{ {found[1]}}}"
    text = text.replace("+/-", "\\pm ").replace("...", "\\ldots ")
    text = text.removeprefix("**")
    while text and (text[-1] in " .,;:$" or text.endswith(("\\!", "**"))):
        text = text[:-2] if text.endswith(("\\,", "\\;", "\\:", "\\!", "\\ ", "\\$", "**")) else text[:-1]
    return _LEAD.sub("", text.strip(" ~"), count=1) if _LEAD.match(text) else text.strip(" ~")


def _in_ascii(text: str) -> str:
    text = _RAISED.sub(lambda m: "^{" + m.group().translate(_PLACED) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m.group().translate(_PLACED) + "}", text)
    text = _SIGN.sub(lambda m: _SIGNS[m.group()], text)
    text = unicodedata.normalize("NFKC", text)
    if len(text) > MAX_CHARS:
        raise Unreadable(f"longer than {MAX_CHARS} characters")
    return "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))


def _fraction(repeating: re.Match[str]) -> str:
    r"""0.8\overline{4} as a fraction: (84 - 8) / 90."""
    whole, fixed, period = repeating.groups()
    numerator = int(whole + fixed + period) - int((whole + fixed) or "0")
    return f"\\frac{{{numerator}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"
