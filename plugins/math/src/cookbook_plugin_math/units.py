"""Words of measure that may follow a number."""

_SAME = (
    "cm centimeter centimeters centimetre centimetres",
    "mm millimeter millimeters",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres",
    "in inch inches",
    "ft foot feet",
    "yd yard yards",
    "mi mile miles",
    "mph",
    "kmh",
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
    "l liter liters litre litres",
    "dollar dollars usd",
    "cent cents",
    "euro euros",
    "yuan",
    "rad radian radians",
)
UNITS = {word: words.split()[0] for words in _SAME for word in words.split()}


def differ(one: str, other: str) -> bool:
    """Whether both are words of measure and not the same, as cm and m, or cm and cm^2."""
    a, b = _parts(one), _parts(other)
    return a is not None and b is not None and a != b


def _parts(unit: str) -> tuple[str, ...] | None:
    words = unit.lower().replace("square ", "2 ").replace("cubic ", "3 ").replace("/", " / ").split()
    known = [UNITS.get(word.strip("."), word) for word in words]
    if not all(word in UNITS.values() or word.isdigit() or word in ("/", "per") for word in known):
        return None
    return tuple(sorted("/" if word == "per" else word for word in known)) or None
