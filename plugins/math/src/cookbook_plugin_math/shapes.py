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
    """Without what only frames the answer: x in S is S, {x : x < 1} is x < 1, lists of x=1, x=2 are 1, 2."""
    if node[0] == "builder":
        return unfold(node[1])
    if node[0] == "mat" and len(node[1]) == 1 and len(node[1][0]) == 1:
        return unfold(node[1][0][0])
    if node[0] == "rel" and node[1] == ("∈",):
        return unfold(node[2][1])
    if node[0] == "list" and (values := names_of(node)) is not None:
        if len({name for name, _ in values}) == 1:
            return ("list", tuple(value for _, value in values), node[2])
        return node
    if (
        node[0] == "list"
        and (first := assignment(node[1][0]))
        and not any(i[0] == "rel" for i in node[1][1:])
    ):
        return ("list", (first[1], *node[1][1:]), node[2])
    return node


def names_of(node: Node) -> list[tuple[Node, Node]] | None:
    """[(name, value)] of a list of assignments, else None."""
    found = [assignment(item) for item in node[1]]
    return [pair for pair in found if pair] if all(found) else None


def assignment(node: Node) -> tuple[Node, Node] | None:
    """(name, value) of name = value, also written value = name, or name = ... = value; else None."""
    if node[0] != "rel" or set(node[1]) != {"="}:
        return None
    sides = node[2]
    if is_name(sides[0]):
        return sides[0], sides[-1]
    return (sides[1], sides[0]) if len(sides) == 2 and is_name(sides[1]) else None


def is_name(node: Node) -> bool:
    """Whether this names something: x, f(2), AB, |AB|, a_n, (x, y), A:B, "Area"."""
    kind = node[0]
    if kind in ("sym", "apply", "sub", "text", "const"):
        return True
    if kind in ("mul", "ratio"):
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
    return node[0] == "rel" and bool(_ORDERS & set(node[1])) and "=" not in node[1]


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
