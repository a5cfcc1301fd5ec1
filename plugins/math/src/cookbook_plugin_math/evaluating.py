"""The value of an expression at a point, by mpmath: in floating point, or at many digits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .errors import Undecided
from .exact import rational
from .nodes import Node

_MAX_LOG = 1e15  # natural logarithm of a magnitude that mpmath still takes
_MAX_FACTORIAL = 1e12
_MAX_STEPS = 5000
_MAX_TERMS = 500  # of a sum that is added up
_WORDS = {"inf": "infinity", "seq": "a tuple", "list": "a list", "mat": "a matrix", "rel": "a relation"}


class Undefined(ArithmeticError):
    """The expression has no value at this point."""


class Overflow(ArithmeticError):
    """The value is too large to compute with."""


def symbols(node: Node) -> frozenset[str]:
    """Its free names; and, as marks, "\\0i" where it holds i, "\\0whole" for what is defined on whole numbers
    first of all, "\\0opaque" for a sum or limit that isn't evaluated."""
    found: set[str] = set()
    _collect(node, found)
    return frozenset(found)


def _collect(node: Any, found: set[str]) -> None:
    if not isinstance(node, tuple) or not node:
        return
    kind = node[0]
    if isinstance(kind, tuple):
        for part in node:
            _collect(part, found)
        return
    if kind == "sym":
        found.add(node[1])
        return
    if kind == "const":
        if node[1] == "i":
            found.add("\0i")
        return
    if kind in ("fact", "floor", "ceil") or node[:2] in (
        ("call", "binom"),
        ("call", "gcd"),
        ("call", "lcm"),
    ):
        found.add("\0whole")
    if kind == "pow" and any(not name.startswith("\0") for name in symbols(node[2])):
        found.add("\0whole")
    if kind == "big":
        found.add("\0opaque")
    for part in node[1:]:
        _collect(part, found)


class Evaluator:
    """Values at one point. `real`: an even root or a logarithm of a negative number is undefined.

    `scale` is the largest magnitude that entered a sum, which rounding errors go by; `finest` the smallest
    one that isn't zero but for such errors.
    """

    def __init__(self, context: Any, point: dict[str, str], log_base: float | None, real: bool) -> None:
        self.ctx = context
        self.point = {name: context.mpf(value) for name, value in point.items()}
        self.log_base, self.real = log_base, real
        self.scale: Any = 0
        self.finest: Any = None
        self.steps = 0

    def value(self, node: Node) -> Any:
        """A number of the context, complex only where it must be.

        Raises `Undefined` or `Overflow`, and `Undecided` for what has no value anywhere.
        """
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise Overflow("too much to work out")
        try:
            rule = getattr(self, f"_{node[0]}", None)
            if rule is None:
                raise Undecided(f"{_WORDS.get(node[0], node[0])} within an expression")
            found = rule(node)
            if abs(found) != abs(found) or abs(found) == self.ctx.inf:
                raise Overflow("a value out of range")
            return found
        except (ZeroDivisionError, ValueError, TypeError) as e:
            raise Undefined(str(e)) from e
        except OverflowError as e:
            raise Overflow("a value out of range") from e

    def sum_of(self, values: list[Any]) -> Any:
        sizes = [abs(value) for value in values]
        largest = max(sizes)
        self.scale = max(self.scale, largest)
        noise = largest * self.ctx.mpf(10) ** (10 - self.ctx.dps)
        for size in sizes:
            if size > noise and (self.finest is None or size < self.finest):
                self.finest = size
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    # --- by kind of node ---

    def _num(self, node: Node) -> Any:
        value: int | Fraction = node[1]
        return self.ctx.mpf(value.numerator) / value.denominator

    def _const(self, node: Node) -> Any:
        return {"e": +self.ctx.e, "pi": +self.ctx.pi, "i": self.ctx.mpc(0, 1)}[node[1]]

    def _sym(self, node: Node) -> Any:
        return self.point[node[1]]

    def _add(self, node: Node) -> Any:
        return self.sum_of([self.value(term) for term in node[1]])

    def _neg(self, node: Node) -> Any:
        return -self.value(node[1])

    def _mul(self, node: Node) -> Any:
        product = self.ctx.mpf(1)
        for factor in node[1]:
            product = product * self.value(factor)
        return product

    def _inv(self, node: Node) -> Any:
        return 1 / self.value(node[1])

    def _pow(self, node: Node) -> Any:
        base, exponent = self.value(node[1]), self.value(node[2])
        if base == 0:
            if self._real(exponent) > 0:
                return base
            raise Undefined("zero to a power that isn't positive")
        size = abs(self.ctx.log(abs(base))) * abs(exponent)
        if size > _MAX_LOG:
            raise Overflow("a power out of range")
        if _is_complex(exponent) or _is_complex(base) or base > 0:
            return base**exponent
        if exponent == int(exponent):
            return base ** int(exponent)
        return self._negative_base(base, exponent, node[2])

    def _negative_base(self, base: Any, exponent: Any, written: Node) -> Any:
        """A real root where the exponent is a fraction with an odd denominator, else the principal value."""
        fraction = rational(written)
        if fraction is not None and fraction.denominator % 2:
            size = (-base) ** exponent
            return -size if fraction.numerator % 2 else size
        if self.real:
            raise Undefined("a negative number to a power that isn't whole")
        return self.ctx.mpc(base) ** exponent

    def _root(self, node: Node) -> Any:
        degree, inside = self.value(node[1]), self.value(node[2])
        if degree == 0:
            raise Undefined("a root of degree zero")
        negative = not _is_complex(inside) and inside < 0
        odd = degree == int(degree) and int(degree) % 2
        if negative and self.real and not odd:
            raise Undefined("an even root of a negative number")
        if degree == 2:
            return self.ctx.sqrt(inside)
        if negative and odd:
            return -((-inside) ** (1 / degree))
        if negative:
            inside = self.ctx.mpc(inside)
        return inside ** (1 / degree) if inside != 0 else inside

    def _abs(self, node: Node) -> Any:
        return abs(self.value(node[1]))

    def _floor(self, node: Node) -> Any:
        return self.ctx.floor(self._real(self.value(node[1])))

    def _ceil(self, node: Node) -> Any:
        return self.ctx.ceil(self._real(self.value(node[1])))

    def _fact(self, node: Node) -> Any:
        return self._gamma(self.value(node[1]) + 1)

    def _gamma(self, x: Any) -> Any:
        if abs(x) > (170 if self.ctx.mpf is float else _MAX_FACTORIAL):
            raise Overflow("a factorial out of range")
        return self.ctx.gamma(x)

    def _deg(self, node: Node) -> Any:
        return self.value(node[1]) * self.ctx.pi / 180

    def _pct(self, node: Node) -> Any:
        return self.value(node[1]) / 100

    def _unit(self, node: Node) -> Any:
        return self.value(node[1])

    def _log(self, node: Node) -> Any:
        inside = self.value(node[2])
        if inside == 0:
            raise Undefined("the logarithm of zero")
        if self.real and not _is_complex(inside) and inside < 0:
            raise Undefined("the logarithm of a negative number")
        self.scale = max(self.scale, 1)
        top = self.ctx.log(inside)
        base = self.log_base if node[1] is None else self.value(node[1])
        return top if base is None else top / self.ctx.log(base)

    def _call(self, node: Node) -> Any:
        values = [self.value(argument) for argument in node[2]]
        if node[1] in ("max", "min"):
            return (max if node[1] == "max" else min)(self._real(value) for value in values)
        rule = _FUNCTIONS.get((node[1], len(values)))
        if rule is None:
            return self._generic(node[1], values)
        if max(abs(value) for value in values) > 1e12:
            raise Overflow("an argument of a function out of range")
        self.scale = max(self.scale, 1)
        return rule(self, *values)

    def _apply(self, node: Node) -> Any:
        return self._generic(node[1], [self.value(argument) for argument in node[2]])

    def _sub(self, node: Node) -> Any:
        return self._generic(node[1], [self.value(node[2])])

    def _big(self, node: Node) -> Any:
        """A sum of few terms is worked out; a longer one stands for an unknown function of its parts."""
        _, kind, lower, upper, body = node
        name, start = None, lower
        if lower is not None and lower[0] == "rel" and len(lower[2]) == 2 and lower[2][0][0] == "sym":
            name, start = lower[2][0][1], lower[2][1]
        limits = [self._limit(limit) for limit in (start, upper) if limit is not None]
        whole = len(limits) == 2 and all(not _is_complex(x) and x == int(x) for x in limits)
        if kind in ("sum", "prod") and name and whole and 0 <= limits[1] - limits[0] < _MAX_TERMS:
            terms = [self._at(name, k, body) for k in range(int(limits[0]), int(limits[1]) + 1)]
            return self.sum_of(terms) if kind == "sum" else self.ctx.fprod(terms)
        inside = [self._at(name, self.ctx.mpf(x), body) for x in (1.25, 2.75)] if name else [self.value(body)]
        return self._generic(kind, [*limits, *inside])

    def _limit(self, node: Node) -> Any:
        """A limit of a sum or an integral; an infinite one is a number of its own."""
        if node == ("inf",) or node == ("neg", ("inf",)):
            return self.ctx.mpf(-97.31250731 if node[0] == "neg" else 97.31250731)
        return self.value(node[2][1] if node[0] == "rel" else node)

    def _at(self, name: str, value: Any, body: Node) -> Any:
        before = self.point.get(name)
        self.point[name] = self.ctx.mpf(value)
        try:
            return self.value(body)
        finally:
            if before is None:
                del self.point[name]
            else:
                self.point[name] = before

    def _generic(self, name: str, values: list[Any]) -> Any:
        """An unknown function: a fixed analytic one that its name chooses."""
        digest = hashlib.blake2b(f"{name}/{len(values)}".encode(), digest_size=16).digest()
        total = self.ctx.mpf(digest[0] + 1) / 97
        for i, value in enumerate(values):
            if abs(value) > 1e6:
                raise Overflow("an argument of an unknown function out of range")
            place = 0 if name in ("gcd", "lcm") else i  # those don't mind the order
            rate = self.ctx.mpf(digest[place % 15 + 1] + 1) / 53
            total = total + (place + 1) * self.ctx.cos(rate * value + place + 1) + rate * value / 7
        self.scale = max(self.scale, 10)
        return total

    def _real(self, value: Any) -> Any:
        if _is_complex(value):
            if abs(value.imag) > 1e-9 * abs(value):
                raise Undefined("an order of complex numbers")
            return value.real
        return value


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or hasattr(value, "_mpc_")


def _binomial(evaluator: Evaluator, n: Any, k: Any) -> Any:
    gamma = evaluator._gamma
    return gamma(n + 1) / (gamma(k + 1) * gamma(n - k + 1))


def _plain(name: str) -> Callable[..., Any]:
    def rule(evaluator: Evaluator, x: Any) -> Any:
        return getattr(evaluator.ctx, name)(x)

    return rule


_FUNCTIONS: dict[tuple[str, int], Callable[..., Any]] = {
    **{(name, 1): _plain(name) for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
    **{(name, 1): _plain(name) for name in "asin acos atan acot asec acsc exp sign".split()},
    ("binom", 2): _binomial,
}
