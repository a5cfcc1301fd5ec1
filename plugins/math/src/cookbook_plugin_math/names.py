"""What a name begins: constants, fractions, roots, functions, sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import Unreadable
from .lexing import FUNCTIONS
from .nodes import Node, number, values
from .stream import END

if TYPE_CHECKING:
    from .parsing import Parser

_BIG = frozenset(("sum", "prod", "int", "lim", "oint"))
_ACCENTS = frozenset(
    ("vec", "hat", "bar", "tilde", "dot", "mathcal", "overrightarrow", "overline", "widehat")
)
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
        return ("call", "binom", values([parser.argument(), parser.argument()]))
    if text == "sqrt":
        return root(parser)
    if text in FUNCTIONS:
        return function(parser, text)
    if text in _BIG:
        return big(parser, text)
    if text in _ACCENTS:
        (inside,) = values([parser.argument()])
        letters = _letters(inside)
        return ("sym", f"{text} {letters}") if letters else ("apply", text, (inside,))
    if parser.sees("(") and (text == "f" or _takes_several(parser)):
        inside = parser.bracket()
        return ("apply", text, inside[3] if inside[0] == "seq" else (inside,))
    if text.startswith(("begin", "end", "ldots", "dots", "cdots", "def", "input", "write")):
        raise Unreadable(f"\\{text}")
    return ("sym", text)


def _letters(node: Node) -> str:
    """The names of a product of symbols, in order: of the vector AB, which isn't BA; else ""."""
    parts = node[1] if node[0] == "mul" else (node,)
    return "".join(part[1] for part in parts) if all(part[0] == "sym" for part in parts) else ""


def _takes_several(parser: Parser) -> bool:
    """Whether a comma stands in the round bracket that comes next: F(x, y) is no product."""
    depth = 0
    for kind, text in parser.found[parser.at :]:
        if kind == "op":
            depth += (text in "([{") - (text in ")]}")
        if not depth or (kind == "sep" and depth == 1):
            return kind == "sep"
    return False


def fraction(parser: Parser) -> Node:
    r"""\frac{a}{b}; of \frac12 and \frac919 the first digit is the numerator."""
    kind, text = parser.token
    if kind == "num" and text.isdigit() and len(text) > 1:
        parser.advance()
        return ("mul", (number(int(text[0])), ("inv", parser.numeral(text[1:]))))
    above, below = values([parser.argument(), parser.argument()])
    return ("mul", (above, ("inv", below)))


def root(parser: Parser) -> Node:
    degree: Node = number(2)
    if parser.sees("["):
        parser.advance()
        degree = parser.expression()
        parser.expect("]")
    return ("root", *values([degree, parser.bracket() if parser.sees("(") else parser.argument()]))


def function(parser: Parser, name: str) -> Node:
    power = base = None
    while parser.sees("^", "_"):
        if parser.advance()[1] == "^":
            power = parser.argument(signed=True)
        else:
            base = parser.argument()
    if parser.token is END or parser.sees("}", "=", "≈", ")"):
        return ("sym", name)  # as in x_{\max}
    inverse = power == ("neg", number(1)) and name in _INVERSES
    argument = function_argument(parser)
    at = {"seq": 3, "list": 1, "set": 1}.get(argument[0])
    given = values(list(argument[at]) if at else [argument])
    node: Node = ("call", _INVERSES[name] if inverse else name, given)
    if name in ("log", "ln", "lg") and len(given) == 1:
        known = {"ln": ("const", "e"), "lg": number(10)}.get(name, base)
        node = ("log", known, given[0])
    return node if power is None or inverse else ("pow", node, power)


def function_argument(parser: Parser) -> Node:
    r"""What \sin takes without brackets: a product, up to a sign, a bracket or another function."""
    if parser.sees("(", "{", "[", "{{"):
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
    body = parser.term(parser.sign())
    values([body])
    if lower is not None and lower[0] == "rel" and lower[2][0] == ("const", "i"):
        lower, body = _with_index_i(lower), _with_index_i(body)  # here i counts
    return ("big", kind, lower, upper, body)


def _with_index_i(node: Any) -> Any:
    if node == ("const", "i"):
        return ("sym", "i")
    return tuple(_with_index_i(part) for part in node) if isinstance(node, tuple) else node
