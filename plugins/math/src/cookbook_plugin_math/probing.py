"""Whether two expressions are equal as functions: tried at points, confirmed there at 120 digits or more.

The expressions are taken as functions of real variables, compared where both are real (everywhere, when one
of them holds i). A difference at one point refutes. Equal is what agrees to 50 digits of its smallest term,
at several points drawn with 60 random digits: two analytic functions that differ do so with probability zero.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath

from .errors import Undecided
from .evaluating import Evaluator, Overflow, Undefined, symbols
from .nodes import Node

_RANDOM = 60  # digits of a point
_CONFIRMED = 4  # points
_LEAST = 2  # points where both are defined, of an expression with variables
_SEED = 1729
_RANGES = (
    (0.2, 2.0), (1.0, 4.0), (-3.0, 3.0), (0.1, 0.9), (-2.0, 2.0), (2.0, 9.0), (-5.0, 5.0), (0.05, 0.5),
    (-0.9, 0.9), (20.0, 90.0), (-90.0, -20.0), (200.0, 900.0), (60.0, 150.0),
)  # fmt: skip


def _context(digits: int) -> Any:
    context = mpmath.mp.clone()
    context.dps = digits
    return context


_fast = mpmath.fp
_EXACT = (
    _context(120),
    _context(400),
    _context(3000),
)  # the later ones where terms of very different size meet, or cancel
_AGREE = _EXACT[0].mpf(10) ** -50
_NOISE = {_fast: 1e-6, **{context: context.mpf(10) ** (20 - context.dps) for context in _EXACT}}


class Prober:
    """Compares expressions; every verdict is the same in every process."""

    def equal(self, reference: Node, answer: Node, within: Fraction = Fraction(0)) -> bool:
        """An answer that can't be worked out is wrong. Raises `Undecided` for a reference that can't be."""
        return any(self._agree(reference, answer, base, within) for base in _bases(reference, answer))

    def _agree(self, reference: Node, answer: Node, base: int | None, within: Fraction) -> bool:
        try:
            return _Trial(reference, answer, base, within).agree()
        except _Different:
            return False
        except Undecided:
            if _has_value(reference, base):
                return False
            raise

    def proportional(self, reference: Node, answer: Node) -> int:
        """1 or -1, the sign of the constant c in reference = c * answer; 0 where there is none."""
        try:
            return _Trial(reference, answer, None).ratio()
        except _Different:
            return 0
        except Undecided:
            if _has_value(reference, None):
                return 0
            raise


def _has_value(node: Node, base: int | None) -> bool:
    """Whether an expression can be worked out somewhere."""
    trial = _Trial(node, node, base)
    if trial.opaque:
        return False
    try:
        return any(trial.values(point, _EXACT[0]) for point in trial.points)
    except (_Different, Undecided):
        return False


def _bases(one: Node, other: Node) -> tuple[int | None, ...]:
    """What log without a base may mean: natural, or to the base 10."""
    return (None, 10) if _has_bare_log(one) or _has_bare_log(other) else (None,)


def _has_bare_log(node: Any) -> bool:
    if not isinstance(node, tuple):
        return False
    return node[:2] == ("log", None) or any(_has_bare_log(part) for part in node)


class _Values(NamedTuple):
    """Two values, what rounding errors may make of each, and the smallest magnitude that must agree."""

    one: Any
    other: Any
    noise: tuple[Any, Any]
    finest: Any

    def decided(self) -> bool:
        """Whether there are digits enough to tell what agrees from what doesn't."""
        return max(self.noise) <= self.finest * _AGREE or self.zero()

    def zero(self) -> bool:
        return abs(self.one) <= self.noise[0] and abs(self.other) <= self.noise[1]


class _Trial:
    """Two expressions, and the points at which they are tried."""

    def __init__(self, one: Node, other: Node, log_base: int | None, within: Fraction = Fraction(0)) -> None:
        self.one, self.other, self.within, self.log_base = one, other, within, log_base
        found = symbols(one) | symbols(other)
        self.names = sorted(name for name in found if not name.startswith("\0"))
        self.real = bool(self.names) and "\0i" not in found
        self.opaque = "\0opaque" in found
        self.points = list(_points(self.names, "\0whole" in found))

    def agree(self) -> bool:
        tried: list[dict[str, str]] = []
        for point in self.points:
            pair = self.values(point, _fast)
            if pair is None:
                continue
            if abs(pair.one - pair.other) > max(float(self.within), *pair.noise):
                return self.refuted()
            tried.append(point)
        # Where few points are left, the others may be out of range in floating point only.
        return self.confirmed(tried if len(tried) >= _CONFIRMED else self.points)

    def confirmed(self, points: list[dict[str, str]]) -> bool:
        compared = 0
        for point in points:
            same = self.same(point)
            if same is False:
                return self.refuted()
            compared += same is not None
            if compared == _CONFIRMED:
                break
        if compared < (min(_LEAST, len(self.points)) if self.names else 1):
            raise Undecided("defined together at too few of the points tried")
        return True

    def same(self, point: dict[str, str]) -> bool | None:
        """Whether the values agree to 50 digits of the smallest magnitude that entered them; None where they
        can't be compared."""
        for context in _EXACT:
            pair = self.values(point, context)
            if pair is None:
                return None
            difference = abs(pair.one - pair.other)
            bound = context.mpf(self.within.numerator) / self.within.denominator
            if difference > max(bound, 2 * sum(pair.noise)):
                return False
            if pair.decided():
                return pair.zero() or difference <= max(bound, pair.finest * _AGREE)
        raise Undecided("terms of too different a size")

    def refuted(self) -> bool:
        if self.opaque:
            raise Undecided("a sum, product, limit or integral that isn't worked out")
        return False

    def values(self, point: dict[str, str], context: Any) -> _Values | None:
        """None where the two can't be compared. Raises `_Different` for constants of which one has no value,
        `Undecided` for what can't be worked out."""
        sides, noise, finest = [], [], []
        for node in (self.one, self.other):
            evaluator = Evaluator(context, point, self.log_base, self.real)
            try:
                value = evaluator.value(node)
            except Undefined:
                sides.append(None)
                continue
            except Overflow as e:
                if context is not _fast and not self.names:
                    raise Undecided(str(e)) from e
                return None
            sides.append(value)
            noise.append(max(abs(value), evaluator.scale) * _NOISE[context])
            finest += [size for size in (abs(value), evaluator.finest) if size]
        one, other = sides
        if one is None or other is None:
            if not self.names and one is not other:
                raise _Different
            return None
        if self.real and not (_is_real(one) and _is_real(other)):
            return None
        return _Values(one, other, (noise[0], noise[1]), min(finest, default=0))

    def ratio(self) -> int:
        ratios: list[Any] = []
        for context, bound in ((_fast, 1e-6), (_EXACT[0], _AGREE)):
            ratios = []
            for point in self.points:
                pair = self.values(point, context)
                if pair is None or abs(pair.one) <= pair.noise[0] or abs(pair.other) <= pair.noise[1]:
                    continue
                ratios.append(pair.one / pair.other)
            if len(ratios) < _LEAST or any(abs(r - ratios[0]) > bound * abs(ratios[0]) for r in ratios):
                return 0
        return (1 if ratios[0].real > 0 else -1) if _is_real(ratios[0]) else 0


class _Different(Exception):
    """One side has a value and the other none."""


def _is_real(value: Any) -> bool:
    return abs(value.imag) <= 1e-9 * max(1e-300, abs(value))


def _points(names: list[str], whole: bool) -> Any:
    """Points as decimal strings, the same for both precisions; some whole where factorials ask for it."""
    if not names:
        return [{}]
    rng = random.Random(_SEED)
    points = []
    for low, high in _RANGES:
        points.append({name: _decimal(rng, low, high) for name in names})
    if whole:
        for most in (6, 9, 12, 5):
            points.append({name: str(rng.randint(1, most)) for name in names})
    return points


def _decimal(rng: random.Random, low: float, high: float) -> str:
    digits = rng.randrange(10**_RANDOM)
    value = Fraction(low) + Fraction(high - low) * Fraction(digits, 10**_RANDOM)
    scaled = value * 10**_RANDOM
    whole, part = divmod(abs(int(scaled)), 10**_RANDOM)
    return f"{'-' if value < 0 else ''}{whole}.{part:0{_RANDOM}d}"
