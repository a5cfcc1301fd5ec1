r"""Tokens of an answer -> a tree, by precedence climbing; nothing is evaluated."""

from __future__ import annotations

from fractions import Fraction

from . import names
from .errors import Unreadable
from .lexing import Token
from .nodes import STRUCTURES, Node, number, product, total, values
from .stream import END, Stream
from .units import NUMBERS

MAX_DEPTH = 40
MAX_DIGITS = 1000  # of one numeral
_MAX_POWER_OF_TEN = 400  # a numeral in scientific notation beyond it stays a product
_RELATIONS = frozenset(("=", "≈", "<", ">", "<=", ">=", "!=", "≡", "∈", "→"))
_SIGNS = frozenset(("+", "-", "±", "∓"))
_MARKS = {"!": "fact", "%": "pct", "°": "deg"}
_ENDS = frozenset(("+", "-", "*", "}", ")", "]", "=", "}}", "|"))
_SIGNED = {"-": "neg", "±": "pm", "∓": "mp"}
_SET_SIGNS = frozenset(("∪", "∩", "∖"))
_CLOSERS = {"(": (")", "]"), "[": ("]", ")"), "⟨": ("⟩", ">"), "{": ("}",), "{{": ("}}",)}
_OPENERS = frozenset(("(", "[", "{", "{{", "⟨", "⌊", "⌈", "matrix"))
_TOGETHER = {"(": ")", "[": "]", "⟨": "⟩"}


def parse(found: tuple[Token, ...]) -> Node:
    """The tree of an answer. Raises `Unreadable`, which says what is in the way."""
    parser = Parser(found)
    node = parser.items(())
    if parser.token is not END:
        raise Unreadable(f"{parser.token[1]!r} is out of place")
    return node


class Parser(Stream):
    """Reads a tree off the stream. `depth` counts nested brackets, `bars` the open |."""

    def __init__(self, found: tuple[Token, ...]) -> None:
        super().__init__(found)
        self.depth = 0
        self.bars = 0

    def items(self, closers: tuple[str, ...]) -> Node:
        """What stands between separators, up to a closer or the end: the item itself when it is one."""
        self.deeper()
        bars, self.bars = self.bars, 0
        found, joiner = [self.relation()], ","
        while self.token[0] == "sep":
            while self.token[0] == "sep":
                joiner = self.advance()[1] if self.token[1] in ("and", "or") else (self.advance(), joiner)[1]
            if self.token is END or self.sees(*closers):
                if joiner != ",":
                    raise Unreadable(f"nothing after {joiner!r}")
                break
            found.append(self.relation())
        self.depth -= 1
        self.bars = bars
        return found[0] if len(found) == 1 else ("list", tuple(found), joiner)

    def relation(self) -> Node:
        sides, signs = [self.ratio()], []
        while self.sign_here in _RELATIONS:
            signs.append(self.advance()[1])
            sides.append(self.ratio())
        node: Node = ("rel", tuple(signs), tuple(sides)) if signs else sides[0]
        modulus = self.modulus()
        return node if modulus is None else ("mod", node, modulus)

    def modulus(self) -> Node | None:
        r"""Of \pmod{m} or (mod m), where one follows."""
        if self.token == ("name", "pmod"):
            self.advance()
            return self.argument()
        if self.sees("(") and self.peek() == ("name", "mod"):
            self.advance()
            self.advance()
            node = self.expression()
            self.expect(")")
            return node
        if self.token == ("name", "mod"):
            self.advance()
            return self.expression()
        return None

    def ratio(self) -> Node:
        parts = [self.sets()]
        while self.sees(":"):
            self.advance()
            parts.append(self.sets())
        return parts[0] if len(parts) == 1 else ("ratio", tuple(parts))

    def sets(self) -> Node:
        node = self.expression()
        while True:
            if self.token == ("name", "U") and node[0] in ("seq", "union"):
                self.advance()
                sign = "∪"
            elif self.sign_here in _SET_SIGNS:
                sign = self.advance()[1]
            else:
                return node
            right = self.expression()
            if sign == "∪":
                node = ("union", (*(node[1] if node[0] == "union" else (node,)), right))
            else:
                node = ("minus" if sign == "∖" else "meet", node, right)

    def expression(self) -> Node:
        self.deeper()
        terms = [self.term(self.sign())]
        while self.sign_here in _SIGNS:
            terms.append(self.term(self.sign()))
        node = terms[0] if len(terms) == 1 else total(terms)
        if self.sees("over", "choose"):
            below = (self.advance()[1], self.expression())
            values([node, below[1]])
            node = (
                ("mul", (node, ("inv", below[1])))
                if below[0] == "over"
                else ("call", "binom", (node, below[1]))
            )
        self.depth -= 1
        return node

    def deeper(self) -> None:
        """Counts a level; whoever calls it takes it off again."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")

    def sign(self) -> str:
        """The signs before a term, as one of "", "-", "±" and "∓"."""
        if self.sign_here not in _SIGNS:
            return ""
        minus, kind = False, ""
        while self.sign_here in _SIGNS:
            token = self.advance()[1]
            minus ^= token == "-"
            kind = token if token in "±∓" else kind
        if kind and minus:
            return "∓" if kind == "±" else "±"
        return kind or ("-" if minus else "")

    def term(self, sign: str) -> Node:
        factors = [self.mixed()]
        while self.token is not END:
            if self.sign_here == "*":
                self.advance()
                factors.append(self.signed_factor())
            elif self.sign_here == "/":
                self.advance()
                factors.append(("inv", self.signed_factor()))
            elif self.token[0] == "num" and self.after_number():
                raise Unreadable("two numbers side by side")
            elif self.begins_factor():
                factors.append(self.factor())
            else:
                break
        if sign == "-" and factors[0][0] in STRUCTURES:
            factors, sign = [number(-1), *factors], ""
        node = factors[0] if len(factors) == 1 else product(factors)
        if self.token[0] == "word" and factors[0][0] != "text":
            while self.token[1] in NUMBERS:
                node = ("mul", (node, number(NUMBERS[self.advance()[1]])))
            if words := self.unit():
                node = ("unit", node, words)
        return (_SIGNED[sign], node) if sign else node

    def after_number(self) -> bool:
        kind, text = self.found[self.at - 1]
        return kind == "num" or (kind == "op" and text in "%°")

    def signed_factor(self) -> Node:
        sign = self.sign()
        node = self.factor()
        return (_SIGNED[sign], node) if sign else node

    def begins_factor(self) -> bool:
        kind, text = self.token
        if kind == "op":
            return (text in _OPENERS and not (text == "(" and self.peek() == ("name", "mod"))) or (
                text == "|" and not self.bars
            )
        return kind == "num" or (kind == "name" and text not in ("pmod", "mod", "U"))

    def mixed(self) -> Node:
        r"""A factor; 1\frac{2}{3} and 1 2/3 are one number."""
        kind, text = self.token
        following = self.peek()
        if following is END or (following[0] == "op" and following[1] in _ENDS):  # a factor by itself
            if kind == "num" and len(text) < 20 and text.isdigit():
                self.advance()
                return ("num", int(text), "")
            if kind == "name" and len(text) == 1 and text not in "ei":
                self.advance()
                return ("sym", text)
        if kind == "num" and text.isdigit():
            if following == ("name", "frac"):
                return self.mixed_fraction()
            if following[0] == "num" and self.peek(2) == ("op", "/") and self.peek(3)[0] == "num":
                return self.plain_mixed(text, following[1], self.peek(3)[1])
        return self.factor()

    def plain_mixed(self, *numerals: str) -> Node:
        if not all(numeral.isdigit() and len(numeral) <= MAX_DIGITS for numeral in numerals):
            raise Unreadable("two numbers side by side")
        for _ in range(4):
            self.advance()
        whole, top, bottom = map(int, numerals)
        if not bottom:
            raise Unreadable("a division by zero")
        return number(whole + Fraction(top, bottom))

    def mixed_fraction(self) -> Node:
        whole, fraction = self.primary(), self.primary()
        top, (_, bottom) = fraction[1]
        if top[0] == bottom[0] == "num" and 0 < top[1] < bottom[1]:
            return self.postfix(number(whole[1] + Fraction(top[1], bottom[1])))
        return ("mul", (whole, self.postfix(fraction)))

    def unit(self) -> str:
        """The words of measure after a number: "cm ^2", "km / h"."""
        words = []
        while self.token[0] == "word" or (words and self.sees("/", "^")):
            if self.sees("^"):
                self.advance()
                exponent = self.argument()
                words.append(f"^{exponent[1]}" if exponent[0] == "num" else "?")
            else:
                words.append(self.advance()[1])
        return " ".join(words)

    def factor(self) -> Node:
        self.deeper()
        node = self.postfix(self.primary())
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        for _ in range(MAX_DEPTH):
            sign = self.sign_here
            if not sign:
                return node
            if sign == "^":
                self.advance()
                node = ("pow", *values([node, self.exponent()]))
            elif sign in _MARKS:
                node = (_MARKS[self.advance()[1]], *values([node]))
            elif sign == "'" and node[0] in ("sym", "apply"):
                self.advance()
                node = (node[0], node[1] + "'", *node[2:])
            elif sign == "_":
                self.advance()
                node = self.subscript(node)
            else:
                return node
        raise Unreadable(f"more than {MAX_DEPTH} marks after a factor")

    def exponent(self) -> Node:
        """What follows ^; a^b^c is a^(b^c)."""
        self.deeper()
        node = self.argument(signed=True)
        if self.sees("^"):
            self.advance()
            node = ("pow", node, self.exponent())
        self.depth -= 1
        return node

    def subscript(self, node: Node) -> Node:
        index = self.argument()
        if node[0] not in ("sym", "num"):
            raise Unreadable("an index of what is no name")
        if index[0] in ("num", "sym", "text"):
            return ("sym", f"{node[1]}_{index[1]}")  # 204_5 too: a numeral in a base is a name of its own
        return ("sub", node[1], index)

    def argument(self, signed: bool = False) -> Node:
        """A group in braces, or one token: what an exponent, an index or a command takes."""
        self.deeper()
        minus = signed and self.sees("-", "+") and self.advance()[1] == "-"
        if self.sees("{") or (self.sees("(") and signed):
            node = self.bracket()
        elif self.token[0] == "op" and self.token[1] not in _OPENERS:
            raise Unreadable(f"{self.token[1]!r} is no argument")
        else:
            node = self.primary()
        self.depth -= 1
        return ("neg", node) if minus else node

    def primary(self) -> Node:
        kind, text = self.token
        if kind == "num":
            return self.numeral(self.advance()[1])
        if kind == "name":
            self.advance()
            return names.named(self, text)
        if kind == "word":
            self.advance()
            return ("text", text.lower())
        if kind == "op" and text in _OPENERS:
            return self.bracket()
        if self.sees("|") and not self.bars:
            self.advance()
            self.bars += 1
            inside = self.expression()
            self.expect("|")
            self.bars -= 1
            return ("abs", inside)
        raise Unreadable(f"{text or 'the end'!r} where a value is wanted")

    def numeral(self, text: str) -> Node:
        if len(text) > MAX_DIGITS:
            raise Unreadable(f"a numeral of more than {MAX_DIGITS} digits")
        if text.isdigit():
            return ("num", int(text), "")
        mantissa, _, exponent = text.lower().partition("e")
        value = Fraction(mantissa)
        if not exponent:
            return number(value, mantissa)
        if len(exponent) > 30:
            raise Unreadable("an exponent of more than 30 digits")
        if abs(int(exponent)) <= _MAX_POWER_OF_TEN:
            return number(value * Fraction(10) ** int(exponent))
        return ("mul", (number(value), ("pow", number(10), number(int(exponent)))))

    def bracket(self) -> Node:
        opening = self.advance()[1]
        if opening == "matrix":
            return self.matrix()
        if opening in ("⌊", "⌈"):
            inside = self.expression()
            self.expect("⌋" if opening == "⌊" else "⌉")
            return ("floor" if opening == "⌊" else "ceil", inside)
        if opening == "{{":
            return self.braces()
        inside = self.items(_CLOSERS[opening])
        closing = self.expect(*_CLOSERS[opening])
        if opening == "[" and closing == "]" and inside[0] not in ("list", "num", *STRUCTURES):
            return ("apply", "[]", (inside,))  # round brackets to most, the whole part to some
        if opening == "{" or (inside[0] != "list" and closing == _TOGETHER[opening]):
            return inside
        if inside[0] != "list":
            raise Unreadable(f"{opening}{closing} around one value")
        return ("seq", opening, closing, inside[1])

    def braces(self) -> Node:
        if self.sees("}}"):
            self.advance()
            return ("set", ())
        if self.is_builder():
            self.bars += 1
            inside = self.sets()
            self.bars -= 1
            self.advance()
            condition = self.items(("}}",))
            self.expect("}}")
            named = inside[0] == "sym" and condition[0] == "rel"
            return ("builder", condition) if named else ("family", inside, condition)
        inside = self.items(_CLOSERS["{{"])
        self.expect("}}")
        return ("set", inside[1] if inside[0] == "list" else (inside,))

    def is_builder(self) -> bool:
        """Whether this is {x : ...} or {x | ...}: a bar or colon, then a relation, come before the end."""
        depth, bar = 0, False
        for at in range(self.at + 1, len(self.found)):
            kind, text = self.found[at]
            if kind != "op":
                continue
            if text == "}}" and not depth:
                return False
            depth += (text in _OPENERS) - (text in ("}", ")", "]", "}}", "⟩", "endmatrix"))
            bar |= not depth and text in (":", "|")
            if bar and text in _RELATIONS:
                return True
        return False

    def matrix(self) -> Node:
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while not self.sees("endmatrix"):
            row.append(self.relation())
            if self.sees("&"):
                self.advance()
            elif self.sees("\\\\"):
                self.advance()
                rows.append(tuple(row))
                row = []
            elif not self.sees("endmatrix"):
                raise Unreadable(f"{self.token[1] or 'the end'!r} within a matrix")
        self.advance()
        return ("mat", tuple(rows + [tuple(row)] if row else rows))
