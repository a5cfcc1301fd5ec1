"""Trees that mean the same answer: what is taken off, spread out or turned round before comparing."""

from __future__ import annotations

from typing import Any

from .nodes import Node

_ORDERS = frozenset(("<", ">", "<=", ">=", "!="))
_TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_MOST_VARIANTS = 400  # items that signs ± may give


def add(*terms: Node) -> Node:
    return ("add", terms)


def negated(node: Node) -> Node:
    return ("neg", node)


def unfold(node: Node) -> Node:
    """Without what only frames the answer: x in S is S, {x : x < 1} is x < 1, x=5, 6 is 5, 6."""
    if node[0] == "builder":
        return unfold(node[1])
    if node[0] == "mat" and len(node[1]) == 1 and len(node[1][0]) == 1:
        return unfold(node[1][0][0])
    if node[0] == "rel" and node[1] == ("∈",) and is_name(node[2][0]):
        return unfold(node[2][1])
    if (
        node[0] == "list"
        and (first := assignment(node[1][0]))
        and not any(i[0] == "rel" for i in node[1][1:])
    ):
        return ("list", (first[1], *node[1][1:]), node[2])
    return node


def names_of(node: Node) -> list[tuple[Node, Node]] | None:
    """[(name, value)] of a list of assignments, or of (x, y) = (1, 2); else None."""
    if node[0] == "list":
        found = [assignment(item) for item in node[1]]
        return [pair for pair in found if pair] if all(found) else None
    if (
        (pair := assignment(node))
        and pair[0][0] == pair[1][0] == "seq"
        and len(pair[0][3]) == len(pair[1][3])
    ):
        return list(zip(pair[0][3], pair[1][3], strict=True))
    return None


def bare(values: list[tuple[Node, Node]]) -> tuple[tuple[Node, ...], bool]:
    """The values of assignments without their names, and whether their order says something.

    x=1, x=2 and x_1=1, x_2=2 are solutions in any order; x=1, y=2 are coordinates, in the order of the names.
    """
    names = [str(name[1]) for name, _ in values]
    if len({name.partition("_")[0] for name in names}) == 1:
        return tuple(value for _, value in values), False
    at = sorted(range(len(names)), key=names.__getitem__)
    return tuple(values[i][1] for i in at), True


def assignment(node: Node) -> tuple[Node, Node] | None:
    """(name, value) of name = value, also written value = name; else None."""
    if node[0] != "rel" or len(node[2]) != 2 or node[1][0] not in ("=", "≈"):
        return None
    left, right = node[2]
    if is_name(left):
        return left, right
    return (right, left) if is_name(right) and node[1][0] == "=" else None


def is_name(node: Node) -> bool:
    """Whether this names something: x, f(2), AB, |AB|, a_n, (x, y), A:B, "Area", e."""
    kind = node[0]
    if kind in ("sym", "apply", "sub", "text"):
        return node != ("sym", "ℝ")
    if kind == "const":
        return node[1] == "e"
    if kind == "mul":  # AB, a/b, and h(2), which may be a product as well
        called = node[1][0][0] == "sym" and len(node[1]) == 2 and node[1][1][0] in ("num", "seq")
        return called or all(is_name(part) and part[0] != "const" for part in node[1])
    if kind == "ratio":
        return all(is_name(part) for part in node[1])
    if kind in ("inv", "abs"):
        return is_name(node[1])
    if kind == "call":
        return all(is_name(part) for part in node[2])
    return kind == "seq" and all(is_name(part) for part in node[3])


def is_order(node: Node) -> bool:
    """Whether it is an inequality, or a list of them."""
    if node[0] == "list":
        return all(is_order(item) for item in node[1])
    return node[0] == "rel" and set(node[1]) <= _ORDERS


def flipped(chain: Node) -> Node:
    """The chain of inequalities written with < and <= only, where all its signs point one way."""
    if any(sign in (">", ">=") for sign in chain[1]):
        return (
            "rel",
            tuple(_TURNED.get(sign, sign) for sign in reversed(chain[1])),
            tuple(reversed(chain[2])),
        )
    return chain


def spread(node: Node) -> Node:
    """With ± written out: a value with it is a list of two, an item of a list or set gives two items."""
    if node[0] in ("list", "set"):
        items = tuple(variant for item in node[1] for variant in _variants(item))[:_MOST_VARIANTS]
        return (node[0], items, *node[2:])
    found = _variants(node)
    return found[0] if len(found) == 1 else ("list", found, ",")


def _variants(node: Node) -> tuple[Node, ...]:
    plus, minus = _signed(node, 1), _signed(node, -1)
    return (plus,) if plus == minus else (plus, minus)


def _signed(node: Any, sign: int) -> Any:
    """The tree with every ± read as one sign, every ∓ as the other."""
    if not isinstance(node, tuple) or not node:
        return node
    if node[0] in ("pm", "mp"):
        inside = _signed(node[1], sign)
        return inside if (sign > 0) == (node[0] == "pm") else ("neg", inside)
    return tuple(_signed(part, sign) for part in node)
