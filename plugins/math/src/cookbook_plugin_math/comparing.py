"""Whether two trees are the same answer: lists, sets, tuples, intervals, relations, matrices, values.

What only the symbolic stage can say is asked of a prober; without one, `NeedsSymbols` is raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

from . import units
from .errors import NeedsSymbols, Undecided
from .exact import rational
from .nodes import STRUCTURES, Node, number
from .ranges import Range, ranges
from .shapes import add, assignment, bare, flipped, is_name, is_order, names_of, negated, unfold

_VALUES = frozenset("num sym const inf add neg mul inv pow root call log fact abs unit deg pct".split())
_TOLERANT_DIGITS = 6  # a reference written with so many significant digits is itself a rounding
_MANY, _MOST = 30, 200  # items of an unordered list that are matched at once, and by a worker


class Symbols(Protocol):
    """What the symbolic stage answers."""

    def equal(self, reference: Node, answer: Node, within: Fraction = ...) -> bool: ...

    def proportional(self, reference: Node, answer: Node) -> int: ...


class _None:
    def equal(self, reference: Node, answer: Node, within: Fraction = Fraction(0)) -> bool:
        raise NeedsSymbols

    def proportional(self, reference: Node, answer: Node) -> int:
        raise NeedsSymbols


class Comparison:
    """Compares an answer with a reference; the order matters for tolerance and for units only."""

    def __init__(self, symbols: Symbols | None = None) -> None:
        self.symbols: Symbols = symbols or _None()

    def same(self, reference: Node, answer: Node) -> bool:
        """Raises `NeedsSymbols` without a prober, and what the prober raises."""
        if reference == answer:
            return True
        if reference[0] in _VALUES and answer[0] in _VALUES:
            return self.values(reference, answer)
        if reference[:2] == answer[:2] == ("rel", ("∈",)) and reference[2][0] != answer[2][0]:
            return False
        reference, answer = unfold(reference), unfold(answer)
        if reference == answer:
            return True
        known, given = names_of(reference), names_of(answer)
        if known and given:
            return self.pairs(known, given)
        if known and not _is_relation(answer) and not is_order(answer):
            return self.without_names(known, answer, self.same)
        if given and not _is_relation(reference) and not is_order(reference):
            return self.without_names(given, reference, lambda one, other: self.same(other, one))
        if "mod" in (reference[0], answer[0]):
            return self.moduli(reference, answer)
        if is_order(reference) or is_order(answer):
            return self.orders(reference, answer)
        if _is_relation(reference) or _is_relation(answer):
            return self.equations(reference, answer)
        if reference[0] in STRUCTURES or answer[0] in STRUCTURES:
            return self.structures(reference, answer)
        return self.values(reference, answer)

    # --- relations ---

    def pairs(self, known: list[tuple[Node, Node]], given: list[tuple[Node, Node]]) -> bool:
        """Assignments beside assignments: the same names with the same values, in any order."""
        left = list(given)
        for name, value in known:
            at = next((i for i, (n, v) in enumerate(left) if n == name and self.same(value, v)), None)
            if at is None:
                return False
            del left[at]
        return not left

    def without_names(
        self, named: list[tuple[Node, Node]], other: Node, same: Callable[[Node, Node], bool]
    ) -> bool:
        """x=1, x=2 beside 1, 2, and x=1, y=2 beside (1, 2)."""
        values, in_order = bare(named)
        if in_order:
            items = _as_tuple(other)
            return len(items) == len(values) and all(same(a, b) for a, b in zip(values, items, strict=True))
        return other[0] in ("list", "set") and same(("list", values, ","), other)

    def equations(self, reference: Node, answer: Node) -> bool:
        left, right = assignment(reference), assignment(answer)
        if not (_is_relation(reference) and _is_relation(answer)):
            if _is_relation(reference):
                return left is not None and self.same(left[1], answer)
            return self.same(reference, right[1]) if right else self.worked_out(reference, answer)
        if left and right:
            if left[0] == right[0]:
                return self.same(left[1], right[1])
            if _is_graph(left[0], right[0]) or _is_graph(right[0], left[0]):
                return self.same(left[1], right[1])
        one, other = _difference(reference), _difference(answer)
        if one is None or other is None:
            return reference[1] == answer[1] and self.in_order(reference[2], answer[2])
        return self.symbols.proportional(one, other) != 0

    def worked_out(self, reference: Node, answer: Node) -> bool:
        """3 * 4 = 12, x = 6/2 = 3 or 1/3 ≈ 0.33 beside a value: all sides of a true chain are that value."""
        signs, sides = answer[1], answer[2]
        if not set(signs) <= {"=", "≈"} or reference[0] in STRUCTURES:
            return False
        if "≈" in signs:
            sides = sides[: signs.index("≈") + 1]
        if len(sides) > 1 and (is_name(sides[0]) or sides[0][0] == "big"):
            sides = sides[1:]  # a name, or a sum or limit that is worked out
        if any(side[0] in STRUCTURES for side in sides):
            return False
        if is_name(answer[2][0]) and not _names(reference):  # V = abc = 60: the formula can't be checked
            sides = tuple(side for side in sides[:-1] if not _names(side)) + sides[-1:]
        return all(self.same(reference, side) for side in sides)

    def orders(self, reference: Node, answer: Node) -> bool:
        """Inequalities, and what they are beside intervals."""
        if is_order(reference) and is_order(answer) and reference[0] == answer[0] == "rel":
            return self.chains(flipped(reference), flipped(answer))
        if reference[0] == answer[0] == "list" and self.unordered(reference[1], answer[1]):
            return reference[2] == answer[2] or "or" not in (reference[2], answer[2])
        one, other = ranges(reference), ranges(answer)
        return one is not None and other is not None and self.same_ranges(one, other)

    def chains(self, one: Node, other: Node) -> bool:
        """a < b <= c beside another such chain, pair by pair."""
        (signs, sides), (signs_2, sides_2) = one[1:], other[1:]
        if signs == signs_2 and self.alike(sides, sides_2):
            return True
        if signs != signs_2:
            return False
        for i, sign in enumerate(signs):
            sign_of_ratio = self.symbols.proportional(
                add(sides[i], negated(sides[i + 1])), add(sides_2[i], negated(sides_2[i + 1]))
            )
            if not sign_of_ratio or (sign_of_ratio < 0 and sign != "!="):
                return False
        return True

    def alike(self, one: tuple[Node, ...], other: tuple[Node, ...]) -> bool:
        """Whether all sides are equal without the help of symbols."""
        try:
            return Comparison().in_order(one, other)
        except NeedsSymbols:
            return False

    def moduli(self, reference: Node, answer: Node) -> bool:
        if reference[0] == answer[0]:
            if not self.same(reference[2], answer[2]):
                return False
            one, other = _residue(reference), _residue(answer)
            a, b, m = rational(one[1]), rational(other[1]), rational(reference[2])
            if one[0] != other[0]:
                return False
            if a is None or b is None or not m:
                return self.same(one[1], other[1])
            return (a - b) % m == 0
        named, bare = (reference, answer) if reference[0] == "mod" else (answer, reference)
        return bare[0] not in STRUCTURES and self.same(_residue(named)[1], bare)

    # --- structures ---

    def structures(self, reference: Node, answer: Node) -> bool:
        one, other = reference[0], answer[0]
        if {one, other} & {"union", "minus", "meet"} or ("sym", "ℝ") in (reference, answer):
            left, right = ranges(reference), ranges(answer)
            return left is not None and right is not None and self.same_ranges(left, right)
        if one in ("list", "set") and other in ("list", "set"):
            left, right = reference[1], answer[1]
            if "set" in (one, other):
                left, right = tuple(dict.fromkeys(left)), tuple(dict.fromkeys(right))
            return self.unordered(left, right)
        if one == other == "seq":
            return _brackets_agree(reference, answer) and self.in_order(reference[3], answer[3])
        if one == other == "mat":
            return len(reference[1]) == len(answer[1]) and all(
                self.in_order(a, b) for a, b in zip(reference[1], answer[1], strict=True)
            )
        if one == other == "ratio":
            return self.in_order(reference[1], answer[1])
        if one == other == "family":
            return self.in_order(reference[1:], answer[1:])
        return self.mixed(reference, answer)

    def mixed(self, reference: Node, answer: Node) -> bool:
        """Two structures of different kinds."""
        one, other = _as_tuple(reference), _as_tuple(answer)
        if one and other and "seq" in (reference[0], answer[0]):
            return self.in_order(one, other)
        one, other = _as_value(reference), _as_value(answer)
        if (one, other) != (reference, answer):
            return self.same(one, other)
        return False

    def in_order(self, one: tuple[Node, ...], other: tuple[Node, ...]) -> bool:
        return len(one) == len(other) and all(self.same(a, b) for a, b in zip(one, other, strict=True))

    def unordered(self, one: tuple[Node, ...], other: tuple[Node, ...]) -> bool:
        """Whether each item has a partner of its own."""
        if len(one) != len(other):
            return False
        known, given = [rational(item) for item in one], [rational(item) for item in other]
        plain = not any(item[0] in ("unit", "pct", "deg") or tolerance(item) for item in one + other)
        if plain and None not in known and None not in given:
            return Counter(known) == Counter(given)
        if len(one) > _MANY and isinstance(self.symbols, _None):
            raise NeedsSymbols
        if len(one) > _MOST:
            raise Undecided(f"more than {_MOST} items in any order")
        left = list(other)
        for item in one:
            for i, candidate in enumerate(left):
                if _is_relation(item) == _is_relation(candidate) and self.same(item, candidate):
                    del left[i]
                    break
            else:
                return False
        return True

    def same_ranges(self, one: list[Range], other: list[Range]) -> bool:
        if len(one) != len(other) or len(one) > _MANY:
            return False
        left = list(other)
        for item in one:
            for i, candidate in enumerate(left):
                if item.closed == candidate.closed and self.in_order(item.ends, candidate.ends):
                    del left[i]
                    break
            else:
                return False
        return True

    # --- values ---

    def values(self, reference: Node, answer: Node) -> bool:
        if "text" in (reference[0], answer[0]):
            return False  # equal ones were equal trees
        if "unit" in (reference[0], answer[0]) and units.differ(_words(reference), _words(answer)):
            return False
        reference, answer = _without_unit(reference), _without_unit(answer)
        one, other = infinite(reference), infinite(answer)
        if one or other:
            return one == other
        kinds = {reference[0], answer[0]}
        if "pct" in kinds and reference[0] != answer[0]:
            return self.percent(reference, answer)
        if "deg" in kinds:
            if reference[0] == answer[0]:
                return self.values(reference[1], answer[1])
            bare = [node[1] if node[0] == "deg" else node for node in (reference, answer)]
            known = [rational(node) for node in bare]
            return known[0] == known[1] if None not in known else self.symbols.equal(reference, answer)
        return self.numbers(reference, answer)

    def percent(self, reference: Node, answer: Node) -> bool:
        """50% is 50, and the half too; 0.5% is neither."""
        share, bare = (reference[1], answer) if reference[0] == "pct" else (answer[1], reference)
        return self.numbers(share, bare) or self.numbers(("mul", (share, ("inv", number(100)))), bare)

    def numbers(self, reference: Node, answer: Node) -> bool:
        one, other = rational(reference), rational(answer)
        within = tolerance(reference)
        if one is not None and other is not None:
            return abs(one - other) <= within
        return reference == answer or self.symbols.equal(reference, answer, within)


def tolerance(reference: Node) -> Fraction:
    """Half a unit of the last place of a decimal reference with six significant digits or more, else 0."""
    numeral = reference[2] if reference[0] == "num" else ""
    if len(numeral.replace(".", "").lstrip("0")) < _TOLERANT_DIGITS:
        return Fraction(0)
    return Fraction(1, 2 * 10 ** len(numeral.partition(".")[2]))


def infinite(node: Node) -> int:
    """1 or -1 for plus or minus infinity, else 0."""
    if node[0] == "inf":
        return 1
    return -infinite(node[1]) if node[0] == "neg" else 0


def _words(node: Node) -> str:
    return node[2] if node[0] == "unit" else ""


def _is_graph(name: Node, other: Node) -> bool:
    """Whether f(x) and y name one curve, in f(x) = ... and y = ..."""
    return name[0] == "apply" and other == ("sym", "y") and other not in name[2]


def _without_unit(node: Node) -> Node:
    return node[1] if node[0] == "unit" else node


def _is_relation(node: Node) -> bool:
    return node[0] == "rel"


def _names(node: Any) -> bool:
    """Whether a symbol is in it."""
    return isinstance(node, tuple) and (node[:1] == ("sym",) or any(map(_names, node)))


def _difference(equation: Node) -> Node | None:
    """L - R of the equation L = R between values, else None."""
    if equation[0] != "rel" or equation[1] != ("=",):
        return None
    left, right = equation[2]
    if left[0] in STRUCTURES or right[0] in STRUCTURES or "text" in (left[0], right[0]):
        return None
    return add(left, negated(right))


def _residue(node: Node) -> tuple[Any, Node]:
    """(the name or None, the residue) of x ≡ r (mod m), or of r (mod m)."""
    inside = node[1]
    if inside[0] == "rel" and inside[1] in (("≡",), ("=",)):
        return inside[2]
    return None, inside


def _brackets_agree(one: Node, other: Node) -> bool:
    """Of pairs, which may be intervals, they must; longer ones are tuples, however written."""
    turned = {"⟨": "(", "⟩": ")", ">": ")"}
    return len(one[3]) > 2 or all(
        turned.get(a, a) == turned.get(b, b) for a, b in zip(one[1:3], other[1:3], strict=True)
    )


def _as_tuple(node: Node) -> tuple[Node, ...]:
    """The items, in order, of (a, b), of a list without brackets and of a column; else ()."""
    if node[0] == "seq" and node[1:3] in (("(", ")"), ("⟨", "⟩")):
        return node[3]
    if node[0] == "mat" and all(len(row) == 1 for row in node[1]):
        return tuple(row[0] for row in node[1])
    return node[1] if node[0] == "list" else ()


def _as_value(node: Node) -> Node:
    """{5} as 5, and 7:32 as 7/32."""
    if node[0] == "set" and len(node[1]) == 1:
        return node[1][0]
    if node[0] == "ratio" and len(node[1]) == 2 and node[1][1] != number(0):
        return ("mul", (node[1][0], ("inv", node[1][1])))
    return node
