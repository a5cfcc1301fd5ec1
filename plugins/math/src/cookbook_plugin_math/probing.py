"""Whether two expressions are equal as functions: tried at points in floating point, confirmed at 60 digits.

The expressions are taken as functions of real variables, compared where both are real (everywhere, when one
of them holds i). A difference at one point refutes. Equal is what agrees to 50 digits at several points drawn
with 60 random digits: two analytic functions that differ do so with probability zero.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import mpmath

from .errors import Undecided
from .evaluating import Evaluator, Overflow, Undefined, symbols
from .nodes import Node

_DIGITS = 60
_AGREE = 50  # digits
_ROUGHLY = 1e-6  # relative difference that refutes in floating point
_CONFIRMED = 4  # points
_LEAST = 2  # points where both are defined, of an expression with variables
_SEED = 1729

_exact = mpmath.mp.clone()
_exact.dps = _DIGITS + 25
_fast = mpmath.fp


class Prober:
    """Compares expressions; every verdict is the same in every process."""

    def equal(self, one: Node, other: Node, within: Fraction = Fraction(0)) -> bool:
        """Raises `Undecided` where neither equality nor a difference can be shown."""
        for base in _bases(one, other):
            trial = _Trial(one, other, base, within)
            try:
                if trial.agree():
                    return True
            except _Different:
                continue
        return False

    def proportional(self, one: Node, other: Node) -> int:
        """1 or -1, the sign of the constant c in one = c * other; 0 where there is none."""
        return _Trial(one, other, None).ratio()


def _bases(one: Node, other: Node) -> tuple[float | None, ...]:
    """What log without a base may mean: natural, or to the base 10."""
    return (None, 10) if _has_bare_log(one) or _has_bare_log(other) else (None,)


def _has_bare_log(node: Any) -> bool:
    if not isinstance(node, tuple):
        return False
    return node[:2] == ("log", None) or any(_has_bare_log(part) for part in node)


class _Trial:
    """Two expressions, and the points at which they are tried."""

    def __init__(
        self, one: Node, other: Node, log_base: float | None, within: Fraction = Fraction(0)
    ) -> None:
        self.one, self.other, self.within, self.log_base = one, other, within, log_base
        found = symbols(one) | symbols(other)
        self.names = sorted(name for name in found if not name.startswith("\0"))
        self.complex = "\0i" in found
        self.opaque = ("\0opaque" in symbols(one)) or ("\0opaque" in symbols(other))
        self.points = list(_points(self.names, "\0whole" in found))

    def agree(self) -> bool:
        compared = 0
        tried: list[dict[str, str]] = []
        for point in self.points:
            pair = self.values(point, _fast)
            if pair is None:
                continue
            if self.far(pair):
                return self.refuted()
            compared += 1
            tried.append(point)
        if compared < (min(_LEAST, len(self.points)) if self.names else 1):
            tried = self.points  # out of range in floating point, perhaps
        return self.confirmed(tried)

    def confirmed(self, tried: list[dict[str, str]]) -> bool:
        compared = 0
        for point in tried:
            pair = self.values(point, _exact)
            if pair is None:
                continue
            one, other, scale = pair
            difference = abs(one - other)
            bound = _exact.mpf(self.within.numerator) / self.within.denominator
            if difference > max(bound, scale * _exact.mpf(10) ** -_AGREE):
                return self.refuted()
            compared += 1
            if compared == _CONFIRMED:
                break
        if not compared:
            raise Undecided("both sides are undefined wherever they were tried")
        return True

    def refuted(self) -> bool:
        if self.opaque:
            raise Undecided("a sum, product, limit or integral that isn't evaluated")
        return False

    def far(self, pair: tuple[Any, Any, Any]) -> bool:
        one, other, scale = pair
        return abs(one - other) > max(float(self.within), _ROUGHLY * scale)

    def values(self, point: dict[str, str], context: Any) -> tuple[Any, Any, Any] | None:
        """The two values and the scale of their rounding errors; None where they can't be compared."""
        evaluator = Evaluator(context, point, self.log_base)
        sides = []
        for node in (self.one, self.other):
            try:
                sides.append(evaluator.value(node))
            except Undefined:
                sides.append(None)
            except Overflow as e:
                if context is _exact:
                    raise Undecided(str(e)) from e
                return None
        one, other = sides
        if one is None or other is None:
            if not self.names and one is not other:
                raise _Different from None
            return None
        if not self.complex and self.names and not (_is_real(one) and _is_real(other)):
            return None
        return one, other, max(abs(one), abs(other), evaluator.scale)

    def ratio(self) -> int:
        ratios = []
        for context in (_fast, _exact):
            ratios = []
            for point in self.points:
                pair = self.values(point, context)
                if pair is None or abs(pair[1]) <= 1e-9 * pair[2] or abs(pair[0]) <= 1e-9 * pair[2]:
                    continue
                ratios.append(pair[0] / pair[1])
            bound = _ROUGHLY if context is _fast else _exact.mpf(10) ** -40
            if len(ratios) < _LEAST or any(abs(r - ratios[0]) > bound * abs(ratios[0]) for r in ratios):
                return 0
        first = ratios[0]
        return (1 if first.real > 0 else -1) if _is_real(first) else 0


class _Different(Exception):
    """One side has a value and the other none."""


def _is_real(value: Any) -> bool:
    return abs(value.imag) <= 1e-9 * max(1e-300, abs(value))


def _points(names: list[str], whole: bool) -> Any:
    """Points as decimal strings, the same for both precisions; some whole where factorials ask for it."""
    if not names:
        return [{}]
    rng = random.Random(_SEED)
    ranges = [
        (0.2, 2.0),
        (1.0, 4.0),
        (-3.0, 3.0),
        (0.1, 0.9),
        (-2.0, 2.0),
        (2.0, 9.0),
        (-5.0, 5.0),
        (0.5, 3.0),
    ]
    points = []
    for low, high in ranges:
        points.append({name: _decimal(rng, low, high) for name in names})
    if whole:
        for most in (6, 9, 12, 5):
            points.append({name: str(rng.randint(1, most)) for name in names})
    return points


def _decimal(rng: random.Random, low: float, high: float) -> str:
    digits = rng.randrange(10**_DIGITS)
    value = Fraction(low) + Fraction(high - low) * Fraction(digits, 10**_DIGITS)
    scaled = value * 10**_DIGITS
    whole, part = divmod(abs(int(scaled)), 10**_DIGITS)
    return f"{'-' if value < 0 else ''}{whole}.{part:0{_DIGITS}d}"
