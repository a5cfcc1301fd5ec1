"""The exact rational value of a tree, with bounds kept before any arithmetic is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from .nodes import Node

Exact = int | Fraction

_MAX_BITS = 1 << 15  # of a numerator or denominator
_MAX_WORK = 4_000_000  # of one tree: products of the sizes of what is multiplied, in words of 32 bits
_MAX_FACTORIAL = 2500
_MAX_ARGUMENTS = 20


def rational(node: Node) -> Exact | None:
    """The value, or None for what isn't rational, isn't seen to be so, or is too large to work out here."""
    return node[1] if node[0] == "num" else _Exact().value(node)


class _Exact:
    def __init__(self) -> None:
        self.work = 0

    def value(self, node: Node) -> Exact | None:
        if node[0] == "num":
            return node[1]
        rule = _RULES.get(node[0])
        found = rule(self, node) if rule else None
        return found if found is not None and _bits(found) <= _MAX_BITS else None

    def values(self, nodes: tuple[Node, ...]) -> list[Exact] | None:
        found = []
        for node in nodes:
            value = self.value(node)
            if value is None:
                return None
            found.append(value)
        return found

    def affords(self, one: Exact, other: Exact) -> bool:
        self.work += (_bits(one) // 32 + 1) * (_bits(other) // 32 + 1)
        return self.work <= _MAX_WORK and max(_bits(one), _bits(other)) <= _MAX_BITS

    def add(self, node: Node) -> Exact | None:
        values, total = self.values(node[1]), 0
        for value in values or ():
            if not self.affords(total, value):
                return None
            total += value
        return None if values is None else total

    def mul(self, node: Node) -> Exact | None:
        values, product = self.values(node[1]), 1
        for value in values or ():
            if not self.affords(product, value):
                return None
            product *= value
        return None if values is None else product

    def power(self, node: Node) -> Exact | None:
        values = self.values(node[1:])
        if values is None or values[1].denominator != 1:
            return None
        base, exponent = values[0], values[1].numerator
        if base == 0 and exponent <= 0:
            return None
        bits = abs(exponent) * _bits(base) if abs(base) != 1 else 1
        if bits > 2 * _MAX_BITS or not self.affords(1 << max(1, bits // 4), 1 << max(1, bits // 4)):
            return None
        return Fraction(base) ** exponent if exponent < 0 else base**exponent

    def call(self, node: Node) -> Exact | None:
        known = self.values(node[2])
        if not known or len(known) > _MAX_ARGUMENTS:
            return None
        if node[1] in ("max", "min"):
            return (max if node[1] == "max" else min)(known)
        whole = [value.numerator for value in known if value.denominator == 1]
        if len(whole) < len(known):
            return None
        if node[1] in ("gcd", "lcm") and sum(map(_bits, whole)) <= _MAX_BITS:
            return (math.gcd if node[1] == "gcd" else math.lcm)(*whole)
        if node[1] == "binom" and len(whole) == 2 and 0 <= whole[1] <= whole[0] <= _MAX_FACTORIAL:
            return math.comb(*whole)
        return None


def _bits(value: Exact) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _of(change: Callable[[Exact], Exact | None]) -> Callable[[_Exact, Node], Exact | None]:
    def rule(exact: _Exact, node: Node) -> Exact | None:
        value = exact.value(node[1])
        return None if value is None else change(value)

    return rule


def _factorial(n: Exact) -> Exact | None:
    return math.factorial(int(n)) if n.denominator == 1 and 0 <= n <= _MAX_FACTORIAL else None


_RULES: dict[str, Callable[[_Exact, Node], Exact | None]] = {
    "add": _Exact.add,
    "mul": _Exact.mul,
    "pow": _Exact.power,
    "call": _Exact.call,
    "neg": _of(lambda value: -value),
    "inv": _of(lambda value: Fraction(1) / value if value else None),
    "abs": _of(abs),
    "floor": _of(math.floor),
    "ceil": _of(math.ceil),
    "fact": _of(_factorial),
    "unit": _of(lambda value: value),
    "pct": _of(lambda value: Fraction(value) / 100),
}
