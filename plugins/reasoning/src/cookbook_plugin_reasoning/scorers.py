"""Scorers of our own, where reasoning-gym's run the answer as code, take a wrong one for right, or hang.

Each takes an answer and an item, and gives 1.0 or 0.0; it may raise for an answer that has no form.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .expressions import derivative_is, polynomial, value_of

Scorer = Callable[[str, dict[str, Any]], bool]

_NUMBER = r"[-+]?(?:\d[\d,]{0,29}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?"
# A real part that no i follows, and an imaginary one.
_COMPLEX = re.compile(
    r"([-+]?\d{1,20}(?:\.\d{1,20})?(?![\d.ij]))?(?:([-+]?(?:\d{1,20}(?:\.\d{1,20})?)?)[ij])?", re.ASCII
)
_MOVE = r"[0-9]?[A-Za-z]{1,2}'?[0-9]?'?"
FORMS: dict[str, tuple[re.Pattern[str] | None, int]] = {
    # family: what its answer must look like before the library's scorer sees it, and how long it may be
    **dict.fromkeys(
        (
            "chain_sum",
            "products",
            "decimal_arithmetic",
            "decimal_chain_sum",
            "number_format",
            "power_function",
        ),
        (re.compile(_NUMBER, re.ASCII), 100),
    ),
    "polynomial_equations": (re.compile(rf"{_NUMBER}(?:\s*,\s*{_NUMBER})*", re.ASCII), 1000),
    "propositional_logic": (None, 300),
    "quantum_lock": (re.compile(r"[A-Ca-c](?:[\s,→>-]*[A-Ca-c])*"), 1000),
    "rubiks_cube": (re.compile(rf"{_MOVE}(?:\s+{_MOVE})*", re.ASCII), 600),
    "rush_hour": (re.compile(r"[A-Z][+-]\d{1,2}(?:[\s,]+[A-Z][+-]\d{1,2})*", re.ASCII), 1000),
    "sokoban": (re.compile(r"[LRUD\s]+"), 2000),
}


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _same_text(answer: str, entry: dict[str, Any]) -> bool:
    return _lines(answer) == _lines(entry["answer"])


def _same_word(answer: str, entry: dict[str, Any]) -> bool:
    return answer.replace(" ", "").casefold() == entry["answer"].replace(" ", "").casefold()


def _a_board(answer: str, entry: dict[str, Any]) -> bool:
    return any(_lines(answer) == _lines(valid) for valid in entry["metadata"]["valid_answers"])


def _number(text: str) -> Fraction:
    if not re.fullmatch(_NUMBER, text, re.ASCII):
        raise ValueError("no number")
    return Fraction(text.replace(",", ""))


def _same_number(answer: str, entry: dict[str, Any]) -> bool:
    return _number(answer.lstrip("$").strip()) == _number(str(entry["answer"]))


def _probability(answer: str, entry: dict[str, Any]) -> bool:
    """Within a ten-thousandth of the probability itself, since many are smaller than the library's 1e-4."""
    top, _, bottom = answer.partition("/")
    given = _number(top.strip()) / (_number(bottom.strip()) if bottom else 1)
    exact = entry["metadata"]["rational"]
    right = Fraction(exact["numerator"], exact["denominator"])
    return abs(given - right) <= right / 10_000


def _complex(answer: str, entry: dict[str, Any]) -> bool:
    """Both parts, as "3 - 4i", "-4i" or "3"; spaces and parentheses don't matter."""
    text = re.sub(r"\s+", "", answer.strip("() "))
    form = _COMPLEX.fullmatch(text)
    if not form or not text:
        raise ValueError("no complex number")
    imaginary = form[2] and form[2] + ("1" if form[2] in ("+", "-", "") else "")
    given = float(form[1] or 0), float(imaginary or (1 if text in ("i", "j") else 0))
    return all(map(functools.partial(math.isclose, abs_tol=1e-9), given, entry["metadata"]["result"]))


def _factors(answer: str, entry: dict[str, Any]) -> bool:
    given = [int(_number(part.strip())) for part in re.split(r"[\u00d7x*]", answer)]
    return sorted(given) == sorted(entry["metadata"]["factors"])


def _sorted_numbers(answer: str, entry: dict[str, Any]) -> bool:
    """The same numbers in the same order, where the library lets each be off by 1."""
    given = json.loads(answer.replace("'", '"'))
    return [_number(str(x)) for x in given] == [_number(x) for x in entry["metadata"]["sorted_numbers"]]


def _game_of_numbers(answer: str, entry: dict[str, Any]) -> bool:
    """An expression of the given numbers, each once, by + - * / and parentheses, that gives the target."""
    value, numbers = value_of(answer)
    meta = entry["metadata"]
    return value == meta.get("target", 24) and Counter(numbers) == Counter(meta["numbers"])


def _antiderivative(answer: str, entry: dict[str, Any]) -> bool:
    return derivative_is(answer, entry["metadata"]["integrand"], entry["metadata"]["variable"])


def _product(answer: str, entry: dict[str, Any]) -> bool:
    """The same sum of monomials; the product itself, not multiplied out, is none."""
    return polynomial(answer) == polynomial(entry["answer"])


SCORERS: dict[str, Scorer] = {
    # eval() of the answer in the library
    **dict.fromkeys(("binary_matrix", "spiral_matrix", "string_insertion"), _same_text),
    "n_queens": _a_board,
    # sympy.parse_expr() of the answer, which evals it
    **dict.fromkeys(("countdown", "puzzle24"), _game_of_numbers),
    **dict.fromkeys(("simple_integration", "intermediate_integration"), _antiderivative),
    "polynomial_multiplication": _product,
    # a wrong answer scores 1
    "coin_flip": _probability,
    "complex_arithmetic": _complex,
    "figlet_font": _same_word,
    "game_of_life_halting": _same_word,
    "gsm_symbolic": _same_number,
    "number_sorting": _sorted_numbers,
    # raises, or gives a part for the question's own number
    "prime_factorization": _factors,
}
