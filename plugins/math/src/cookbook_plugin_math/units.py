"""Words that may follow a number: measures, numbers in words, and what has a meaning of its own."""

from __future__ import annotations

import re

_SAME = (
    "cm centimeter centimeters centimetre centimetres",
    "mm millimeter millimeters",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres",
    "in inch inches",
    "ft foot feet",
    "yd yard yards",
    "mi mile miles",
    "s sec second seconds",
    "min minute minutes",
    "h hr hour hours",
    "day days",
    "week weeks",
    "month months",
    "year years",
    "mg milligram milligrams",
    "g gram grams",
    "kg kilogram kilograms",
    "lb lbs pound pounds",
    "oz ounce ounces",
    "ml milliliter milliliters",
    "l L liter liters litre litres",
    "dollar dollars usd USD",
    "cent cents",
    "euro euros",
    "yuan",
    "rad radian radians",
    "N newton newtons",
    "J joule joules",
    "W watt watts",
    "V volt volts",
    "Hz hertz",
    "K kelvin",
    "Pa pascal pascals",
    "mol mole moles",
)
UNITS = {word: words.split()[0] for words in _SAME for word in words.split()}
GLUED = frozenset("cm mm km kg ft mph Hz Pa inches meters feet".split())  # 5cm, but 5mg may be a product
LETTERS = frozenset("m s g h l L N J W V K C F A T".split())  # \text{m} after a number
NUMBERS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_COMPOUNDS = {"mph": "mi / h", "kmh": "km / h", "kph": "km / h"}
_MEASURES = frozenset(UNITS.values()) | {"/", "2", "3"}
_ANYTHING = frozenset("unit units".split())
_POWERS = {"square": "2", "squared": "2", "sq": "2", "cubic": "3", "cubed": "3", "per": "/"}
_OWN_MEANING = frozenset(
    "not no maybe is are was be a.m. p.m. am pm plus minus over under times divided by base mod modulo or if "
    "when where factorial half third profit loss more less than pairs to".split()
)


def is_compound(text: str) -> bool:
    """Whether a text is a unit over a unit: m/s, km/h, m/s^2."""
    return all(re.sub(r"[\d^{}]", "", part) in UNITS for part in text.split("/"))


def differ(one: str, other: str) -> bool:
    """Whether the words after two equal numbers make them different answers; "" is no words.

    Without words on one side the other's are left out of account, unless they mean more than a measure.
    """
    a, b = _parts(one), _parts(other)
    if {"2", "3"} >= (a or b) > set():
        return True  # 5 squared
    if re.search(r"(?<![\^{])\b\d", f"{one} {other}"):
        return True  # another number among the words
    if not a or not b:
        return bool((a | b) & _OWN_MEANING)
    if (a | b) & _ANYTHING and not (a | b) & _OWN_MEANING:
        return False
    if a <= _MEASURES or b <= _MEASURES:
        return a != b
    return not (a <= b or b <= a) or bool((a ^ b) & _OWN_MEANING)


def _parts(words: str) -> set[str]:
    for short, long in _COMPOUNDS.items():
        words = re.sub(rf"\b{short}\b", long, words)
    return {_known(word) for word in re.sub(r"([/^{}])", r" \1 ", words).split() if word not in "^{}"}


def _known(word: str) -> str:
    """The one spelling of a measure; else the word, in lower case and the singular."""
    lower = word.lower()
    return _POWERS.get(lower) or UNITS.get(word) or UNITS.get(lower) or _singular(lower)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
