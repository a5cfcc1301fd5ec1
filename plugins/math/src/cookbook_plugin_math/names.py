"""What a name begins: constants, fractions, roots, functions, sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Unreadable
from .lexing import FUNCTIONS
from .nodes import Node, number

if TYPE_CHECKING:
    from .parsing import Parser

_BIG = frozenset(("sum", "prod", "int", "lim", "oint"))
_ACCENTS = frozenset(
    ("vec", "hat", "bar", "tilde", "dot", "mathcal", "overrightarrow", "overline", "widehat")
)
_UNKNOWN_FUNCTIONS = frozenset(("f", "g", "h"))
_INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot", "sec": "asec", "csc": "acsc"}


def named(parser: Parser, text: str) -> Node:
    if text in ("pi", "e", "i"):
        return ("const", text)
    if text == "inf":
        return ("inf",)
    if text == "emptyset":
        return ("set", ())
    if text == "frac":
        return fraction(parser)
    if text == "binom":
        return ("call", "binom", (parser.argument(), parser.argument()))
    if text == "sqrt":
        return root(parser)
    if text in FUNCTIONS:
        return function(parser, text)
    if text in _BIG:
        return big(parser, text)
    if text in _ACCENTS and parser.sees("{"):
        inside = parser.bracket()
        return ("sym", f"{text} {inside[1]}") if inside[0] == "sym" else inside
    if text in _UNKNOWN_FUNCTIONS and parser.sees("("):
        inside = parser.bracket()
        return ("apply", text, inside[3] if inside[0] == "seq" else (inside,))
    if text.startswith(("begin", "end", "ldots", "dots", "cdots", "def", "input", "write")):
        raise Unreadable(f"\\{text}")
    return ("sym", text)


def fraction(parser: Parser) -> Node:
    r"""\frac{a}{b}; of \frac12 and \frac919 the first digit is the numerator."""
    kind, text = parser.token
    if kind == "num" and text.isdigit() and len(text) > 1:
        parser.advance()
        return ("mul", (number(int(text[0])), ("inv", number(int(text[1:])))))
    return ("mul", (parser.argument(), ("inv", parser.argument())))


def root(parser: Parser) -> Node:
    degree: Node = number(2)
    if parser.sees("["):
        parser.advance()
        degree = parser.expression()
        parser.expect("]")
    return ("root", degree, parser.bracket() if parser.sees("(") else parser.argument())


def function(parser: Parser, name: str) -> Node:
    power = base = None
    while parser.sees("^", "_"):
        if parser.advance()[1] == "^":
            power = parser.argument(signed=True)
        else:
            base = parser.argument()
    inverse = power == ("neg", number(1)) and name in _INVERSES
    argument = function_argument(parser)
    values = argument[3] if argument[0] == "seq" else argument[1] if argument[0] == "list" else (argument,)
    node: Node = ("call", _INVERSES[name] if inverse else name, values)
    if name in ("log", "ln", "lg") and len(values) == 1:
        known = {"ln": ("const", "e"), "lg": number(10)}.get(name, base)
        node = ("log", known, values[0])
    return node if power is None or inverse else ("pow", node, power)


def function_argument(parser: Parser) -> Node:
    r"""What \sin takes without brackets: a product, up to a sign, a bracket or another function."""
    if parser.sees("(", "{", "["):
        return parser.bracket()
    factors = [parser.factor()]
    while parser.begins_factor() and not parser.sees("(", "[", "{{") and parser.token[1] not in FUNCTIONS:
        factors.append(parser.factor())
    return factors[0] if len(factors) == 1 else ("mul", tuple(factors))


def big(parser: Parser, kind: str) -> Node:
    lower = upper = None
    while parser.sees("_", "^"):
        is_lower = parser.advance()[1] == "_"
        if parser.sees("{"):
            parser.advance()
            limit = parser.items(("}",))
            parser.expect("}")
        else:
            limit = parser.argument()
        lower, upper = (limit, upper) if is_lower else (lower, limit)
    return ("big", kind, lower, upper, parser.term(parser.sign()))
