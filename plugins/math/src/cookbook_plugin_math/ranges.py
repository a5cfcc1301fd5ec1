"""Intervals, inequalities and their unions as one list of ranges of real numbers."""

from __future__ import annotations

from typing import NamedTuple

from .exact import rational
from .nodes import Node
from .shapes import flipped

_INFINITY: Node = ("inf",)
_MINUS_INFINITY: Node = ("neg", _INFINITY)


class Range(NamedTuple):
    """ends: the lower and the upper one. closed: whether each belongs to it; never so for an infinite one."""

    ends: tuple[Node, Node]
    closed: tuple[bool, bool]


def ranges(node: Node) -> list[Range] | None:
    """What the answer holds of the real line; None for what isn't a part of it."""
    kind = node[0]
    if kind == "seq" and len(node[3]) == 2 and node[1] in "([":
        return [_range(node[3][0], node[3][1], node[1] == "[", node[2] == "]")]
    if kind == "union":
        return _joined([ranges(part) for part in node[1]])
    if kind == "set":
        return [_range(item, item, True, True) for item in node[1]]
    if node == ("sym", "ℝ"):
        return [_range(_MINUS_INFINITY, _INFINITY, False, False)]
    if kind == "minus" and node[1] == ("sym", "ℝ") and node[2][0] == "set" and len(node[2][1]) == 1:
        return _but(node[2][1][0])
    if kind == "rel":
        return _of_chain(flipped(node))
    if kind == "list":
        return _of_list(node)
    return None


def _range(low: Node, high: Node, with_low: bool, with_high: bool) -> Range:
    return Range((low, high), (with_low and low != _MINUS_INFINITY, with_high and high != _INFINITY))


def _but(point: Node) -> list[Range]:
    return [_range(_MINUS_INFINITY, point, False, False), _range(point, _INFINITY, False, False)]


def _joined(parts: list[list[Range] | None]) -> list[Range] | None:
    return None if None in parts else [item for part in parts if part is not None for item in part]


def _of_chain(node: Node) -> list[Range] | None:
    """Of x < a, a <= x, a < x <= b, x != a and |x| < a, where x is a name."""
    signs, sides = node[1:]
    if signs == ("!=",):
        return next((_but(sides[1 - i]) for i in (0, 1) if _is_variable(sides[i])), None)
    if not set(signs) <= {"<", "<="}:
        return None
    closed = [sign == "<=" for sign in signs]
    if len(sides) == 3 and _is_variable(sides[1]):
        return [_range(sides[0], sides[2], closed[0], closed[1])]
    if len(sides) != 2:
        return None
    left, right = sides
    if "abs" in (left[0], right[0]):
        return _of_distance(left, right, closed[0])
    if _is_variable(left):
        return [_range(_MINUS_INFINITY, right, False, closed[0])]
    return [_range(left, _INFINITY, closed[0], False)] if _is_variable(right) else None


def _of_distance(left: Node, right: Node, closed: bool) -> list[Range] | None:
    """Of |x - c| < a, and of a < |x - c|."""
    inside, radius = (left[1], right) if left[0] == "abs" else (right[1], left)
    terms = inside[1] if inside[0] == "add" else (inside,)
    rest = [term for term in terms if not _is_variable(term)]
    if len(rest) + 1 != len(terms) or radius[0] == "abs":
        return None
    centre = [("neg", term) for term in rest]
    low: Node = ("add", (*centre, ("neg", radius)))
    high: Node = ("add", (*centre, radius))
    if left[0] == "abs":
        return [_range(low, high, closed, closed)]
    return [_range(_MINUS_INFINITY, low, False, closed), _range(high, _INFINITY, closed, False)]


def _is_variable(node: Node) -> bool:
    return node[0] in ("sym", "apply", "sub") and node != ("sym", "ℝ")


def _variable(node: Node) -> Node | None:
    """What a chain says something of."""
    if node[0] != "rel":
        return None
    return next((side for side in node[2] if _is_variable(side)), None)


def _of_list(node: Node) -> list[Range] | None:
    """x < 1 or x > 2 is a union; x > 1 and x < 2 what both hold; with a comma that, if it is anything."""
    found = _joined([ranges(item) for item in node[1]])
    if found is None or len({_variable(item) for item in node[1]}) > 1:
        return None
    if node[2] == "or" or len(found) != 2:
        return found if node[2] != "and" else None
    for one, other in (found, found[::-1]):
        if one.ends[1] == _INFINITY and other.ends[0] == _MINUS_INFINITY:
            low, high = rational(one.ends[0]), rational(other.ends[1])
            if low is not None and high is not None and low < high:
                return [Range((one.ends[0], other.ends[1]), (one.closed[0], other.closed[1]))]
    return found if node[2] == "," or node[1][0][0] == "seq" else None
