"""The exact rational value of a tree, with bounds kept before any arithmetic is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from .nodes import Node

Exact = int | Fraction

MAX_BITS = 2048  # of a numerator or denominator
_MAX_ARGUMENTS = 20
_MAX_FACTORIAL = 700


def rational(node: Node) -> Exact | None:
    """The value, or None for what isn't rational, isn't seen to be so, or is too large to hold."""
    kind = node[0]
    if kind == "num":
        return node[1]
    rule = _RULES.get(kind)
    if rule is None:
        return None
    value = rule(node)
    if value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return None
    return value


def _sum(node: Node) -> Exact | None:
    total: Exact = 0
    for term in node[1]:
        value = rational(term)
        if value is None:
            return None
        total += value
        if total.denominator.bit_length() > MAX_BITS:
            return None
    return total


def _product(node: Node) -> Exact | None:
    product: Exact = 1
    for factor in node[1]:
        value = rational(factor)
        if value is None:
            return None
        product *= value
        if max(product.numerator.bit_length(), product.denominator.bit_length()) > MAX_BITS:
            return None
    return product


def _power(node: Node) -> Exact | None:
    base, exponent = rational(node[1]), rational(node[2])
    if base is None or exponent is None or exponent.denominator != 1:
        return None
    power = exponent.numerator
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(power) * bits > MAX_BITS or (base == 0 and power <= 0):
        return None
    return Fraction(base) ** power


def _of(change: Callable[[Exact], Exact | None]) -> Callable[[Node], Exact | None]:
    def rule(node: Node) -> Exact | None:
        value = rational(node[1])
        return None if value is None else change(value)

    return rule


def _factorial(n: Exact) -> Exact | None:
    if n.denominator != 1 or not 0 <= n <= _MAX_FACTORIAL:
        return None
    return Fraction(math.factorial(int(n)))


def _call(node: Node) -> Exact | None:
    values = [rational(argument) for argument in node[2]]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not 0 < len(known) <= _MAX_ARGUMENTS:
        return None
    if node[1] in ("max", "min"):
        return (max if node[1] == "max" else min)(known)
    whole = [value.numerator for value in known if value.denominator == 1]
    if len(whole) < len(known):
        return None
    if node[1] in ("gcd", "lcm"):
        return Fraction((math.gcd if node[1] == "gcd" else math.lcm)(*whole))
    if node[1] == "binom" and len(whole) == 2 and 0 <= whole[1] <= whole[0] <= _MAX_FACTORIAL:
        return Fraction(math.comb(*whole))
    return None


_RULES: dict[str, Callable[[Node], Exact | None]] = {
    "add": _sum,
    "mul": _product,
    "pow": _power,
    "call": _call,
    "neg": _of(lambda value: -value),
    "inv": _of(lambda value: Fraction(1, value) if value else None),
    "abs": _of(abs),
    "floor": _of(lambda value: Fraction(math.floor(value))),
    "ceil": _of(lambda value: Fraction(math.ceil(value))),
    "fact": _of(_factorial),
    "unit": lambda node: rational(node[1]),
    "pct": lambda node: rational(node[1]),
}
