r"""The trees that answers are read as.

A node is a tuple whose first item names its kind. Expressions:
("num", int or Fraction, the numeral if it has a point, else ""), ("sym", name), ("const", "e", "i" or "pi"),
("inf",), ("add", terms), ("neg", a), ("mul", factors), ("inv", a), ("pow", base, exponent), ("root", n, a),
("call", function, arguments), ("log", base or None, a), ("apply", name, arguments) for an unknown function,
("sub", name, index), ("fact", a), ("abs", a), ("floor", a), ("ceil", a), ("pm", a) for ±a, ("mp", a) for ∓a,
("deg", a), ("pct", a), ("unit", a, words), ("big", kind, lower, upper, body) for sums and their like.
Structures: ("seq", opening, closing, items), ("set", items), ("list", items, joiner), ("mat", rows),
("rel", signs, sides), ("union", items), ("minus", a, b), ("meet", a, b), ("ratio", items),
("mod", a, modulus), ("text", words), ("builder", relation), ("family", element, condition).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from .errors import Unreadable

Node = tuple[Any, ...]

STRUCTURES = frozenset(
    ("seq", "set", "list", "mat", "rel", "union", "minus", "meet", "ratio", "mod", "builder", "family")
)


def number(value: int | Fraction, numeral: str = "") -> Node:
    """A whole value is an int, whatever it was given as: equal numbers are equal trees."""
    return ("num", value.numerator if value.denominator == 1 else value, numeral)


def values(nodes: list[Node]) -> tuple[Node, ...]:
    """The nodes, when all are values. Raises `Unreadable` for a list or a set among them."""
    for node in nodes:
        if node[0] == "text":
            raise Unreadable(f"the word {node[1]!r} within an expression")
        if node[0] in STRUCTURES or (node[0] == "inv" and node[1][0] in STRUCTURES):
            raise Unreadable("a list, set or tuple within an expression")
    return tuple(nodes)


def product(factors: list[Node]) -> Node:
    """A product; one with a matrix is the matrix of the products."""
    if [node[0] for node in factors].count("mat") != 1:
        return ("mul", values(factors))
    at = [node[0] for node in factors].index("mat")
    scale = values(factors[:at] + factors[at + 1 :])
    return ("mat", tuple(tuple(("mul", (*scale, entry)) for entry in row) for row in factors[at][1]))


def total(terms: list[Node]) -> Node:
    """A sum; one of matrices of the same shape is the matrix of the sums."""
    if any(term[0] != "mat" for term in terms):
        return ("add", values(terms))
    if len({tuple(len(row) for row in term[1]) for term in terms}) > 1:
        raise Unreadable("a sum of matrices of different shapes")
    rows = zip(*(term[1] for term in terms), strict=True)
    return ("mat", tuple(tuple(("add", entries) for entries in zip(*row, strict=True)) for row in rows))
