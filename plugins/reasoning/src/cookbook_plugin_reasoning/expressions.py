"""Arithmetic, polynomials and elementary functions as text: parsed by Python's grammar, never run by it.

What isn't allowed raises ValueError (or an ArithmeticError, where a value has no finite form).
"""

from __future__ import annotations

import ast
import cmath
import operator
from collections import Counter
from fractions import Fraction

_LONGEST = 1000
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_POINTS = (0.05, -0.11, 0.19, -0.29, 0.31, 0.71, -0.83, -1.37, 1.43, -2.3, 2.9, -4.7, 5.3, -7.9, 9.7, -11.3)
_FAR_POINTS = (14.1, -15.7, 23.9, -25.3)
_CONSTANTS = {"C": 0.0, "E": cmath.e, "pi": cmath.pi}
_FUNCTIONS = {  # name: (the function, its derivative)
    "sin": (cmath.sin, cmath.cos),
    "cos": (cmath.cos, lambda u: -cmath.sin(u)),
    "tan": (cmath.tan, lambda u: 1 + cmath.tan(u) ** 2),
    "exp": (cmath.exp, cmath.exp),
    "log": (cmath.log, lambda u: 1 / u),
    "ln": (cmath.log, lambda u: 1 / u),
    "sqrt": (cmath.sqrt, lambda u: 1 / (2 * cmath.sqrt(u))),
    "asin": (cmath.asin, lambda u: 1 / cmath.sqrt(1 - u * u)),
    "acos": (cmath.acos, lambda u: -1 / cmath.sqrt(1 - u * u)),
    "atan": (cmath.atan, lambda u: 1 / (1 + u * u)),
    "sinh": (cmath.sinh, cmath.cosh),
    "cosh": (cmath.cosh, cmath.sinh),
    "tanh": (cmath.tanh, lambda u: 1 - cmath.tanh(u) ** 2),
    "Abs": (lambda u: complex(abs(u)), lambda u: u / abs(u)),
}
Dual = tuple[complex, complex]  # a value, and its derivative


def _read(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ValueError("too long")
    return ast.parse(text.strip(), mode="eval").body


def value_of(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression of natural numbers, + - * / and parentheses, and its numbers."""
    numbers: list[int] = []

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**9:
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        raise ValueError("no arithmetic expression")

    return walk(_read(text)), numbers


Monomial = tuple[tuple[str, int], ...]


def polynomial(text: str) -> dict[Monomial, int]:
    """{monomial: coefficient} of a sum of monomials with integer coefficients."""
    terms: Counter[Monomial] = Counter()

    def add(node: ast.expr, sign: int) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            add(node.left, sign)
            add(node.right, sign if isinstance(node.op, ast.Add) else -sign)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            add(node.operand, -sign)
        else:
            powers: Counter[str] = Counter()
            coefficient = _factors(node, powers)
            terms[tuple(sorted(powers.items()))] += sign * coefficient

    add(_read(text), 1)
    return {monomial: n for monomial, n in terms.items() if n}


def _factors(node: ast.expr, powers: Counter[str]) -> int:
    """The coefficient of a product of numbers and powers of names; the names go to `powers`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _factors(node.left, powers) * _factors(node.right, powers)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_factors(node.operand, powers)
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**30:
        return node.value
    if isinstance(node, ast.Name):
        powers[node.id] += 1
        return 1
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.left, ast.Name)
        and isinstance(node.right, ast.Constant)
        and type(node.right.value) is int
        and 0 < node.right.value < 1000
    ):
        powers[node.left.id] += node.right.value
        return 1
    raise ValueError("no monomial")


def derivative_is(text: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of one expression is the other, to nine digits at each of 20 real points at
    which the other is real and finite; two such points at least. All in floating point, so that no tower of
    powers takes long."""
    function, other = _read(text), _read(integrand)
    points = 0
    for x in _POINTS + _FAR_POINTS:
        try:
            expected, _ = _dual(other, x, variable)
        except ArithmeticError:
            continue
        except ValueError:
            if not _names_known(other, variable):
                raise
            continue
        if abs(expected.imag) > 1e-12 * abs(expected.real):
            continue
        points += 1
        _, found = _dual(function, x, variable)
        if not abs(found - expected) <= 1e-9 * max(1.0, abs(expected)):
            return False
    if points < 2:
        raise ValueError("the integrand is real nowhere that is looked at")
    return True


def _names_known(node: ast.expr, variable: str) -> bool:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names <= {variable, *_CONSTANTS, *_FUNCTIONS}


def _dual(node: ast.expr, x: float, variable: str) -> Dual:
    """A node's value and derivative at x. Of a name that is both, the variable wins."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return complex(node.value), 0j  # type: ignore[arg-type]
    if isinstance(node, ast.Name) and node.id == variable:
        return complex(x), 1 + 0j
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return complex(_CONSTANTS[node.id]), 0j
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign = -1 if isinstance(node.op, ast.USub) else 1
        u, du = _dual(node.operand, x, variable)
        return sign * u, sign * du
    if isinstance(node, ast.BinOp):
        return _binary(node.op, _dual(node.left, x, variable), _dual(node.right, x, variable))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        function, derivative = _FUNCTIONS[node.func.id]  # a KeyError for another
        u, du = _dual(node.args[0], x, variable)
        return function(u), derivative(u) * du
    raise ValueError("no elementary function")


def _binary(op: ast.operator, left: Dual, right: Dual) -> Dual:
    (u, du), (v, dv) = left, right
    if isinstance(op, ast.Add):
        return u + v, du + dv
    if isinstance(op, ast.Sub):
        return u - v, du - dv
    if isinstance(op, ast.Mult):
        return u * v, du * v + u * dv
    if isinstance(op, ast.Div):
        return u / v, (du * v - u * dv) / (v * v)
    if isinstance(op, ast.Pow):
        power = u**v
        slope = v * u ** (v - 1) * du if du else 0j
        return power, slope + (power * cmath.log(u) * dv if dv else 0j)
    raise ValueError("no elementary function")
