"""Writes the shipped samples: problems of this project's own, in the columns of the sets they stand in for.

    python plugins/math/tests/make_samples.py [FOLDER]

Answers are computed beside the problems. The same bytes each time; a test compares them with what is shipped.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from fractions import Fraction
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "src" / "cookbook_plugin_math" / "samples"
NAMES = ["Ada", "Ben", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hanna", "Ivo", "Juna", "Kofi", "Lene"]
THINGS = ["apples", "stickers", "marbles", "postcards", "buttons", "shells", "pencils", "stamps"]


# --- Word problems: each gives (question, solution, answer) ---------------------------------------------


def bought_and_gave(d):
    name, thing, a, b = d.choice(NAMES), d.choice(THINGS), d.randint(2, 9), d.randint(3, 12)
    c = d.randint(1, a * b - 1)
    q = f"{name} buys {a} bags with {b} {thing} in each and gives {c} away. How many {thing} are left?"
    return q, f"{a} bags hold {a} * {b} = {a * b}.\nThen {a * b} - {c} = {a * b - c} are left.", a * b - c


def saving(d):
    name, a, b = d.choice(NAMES), d.randint(2, 15), d.randint(3, 12)
    start = d.randint(5, 60)
    q = f"{name} has {start} dollars and saves {a} dollars a week. How much is it after {b} weeks?"
    return q, f"{b} weeks bring {a} * {b} = {a * b}.\n{start} + {a * b} = {start + a * b}.", start + a * b


def shared(d):
    n, each, rest, thing = d.randint(2, 9), d.randint(2, 12), d.randint(1, 9), d.choice(THINGS)
    total = n * each + rest
    q = f"{total} {thing} are shared: {rest} are kept back, and {n} children get equally many. How many each?"
    return q, f"{total} - {rest} = {total - rest} are shared.\n{total - rest} / {n} = {each}.", each


def ages(d):
    (a, b), x, y = d.sample(NAMES, 2), d.randint(4, 12), d.randint(2, 9)
    q = f"{a} is {x} years old. {b} is {y} years older than {a}. How old are they together in 3 years?"
    total = 2 * x + y + 6
    return q, f"{b} is {x} + {y} = {x + y}.\nIn 3 years: {x + 3} + {x + y + 3} = {total}.", total


def trip(d):
    speed, hours, more = 10 * d.randint(3, 11), d.randint(2, 6), d.randint(5, 45)
    q = f"A bus drives {hours} hours at {speed} km an hour and then {more} km more. How far does it get?"
    far = speed * hours
    return q, f"{hours} hours make {speed} * {hours} = {far} km.\n{far} + {more} = {far + more}.", far + more


def rows(d):
    c, b = d.randint(2, 9), d.randint(5, 15)
    a = c + d.randint(1, 12)
    q = f"A hall has {a} rows of {b} seats. {c} rows are closed off. How many seats can be used?"
    return q, f"{a} - {c} = {a - c} rows are open.\n{a - c} * {b} = {(a - c) * b}.", (a - c) * b


def change(d):
    name, n, price = d.choice(NAMES), d.randint(2, 6), d.randint(2, 7)
    paid = 50 if n * price > 19 else 20
    q = f"{name} buys {n} books for {price} dollars each and pays with a note of {paid}. What is the change?"
    return (
        q,
        f"The books cost {n} * {price} = {n * price}.\n{paid} - {n * price} = {paid - n * price}.",
        (paid - n * price),
    )


def doubled(d):
    name, a, n = d.choice(NAMES), d.randint(2, 9), d.randint(2, 4)
    q = f"On the first day {name} reads {a} pages, and on each day after it twice as many as the day before. "
    q += f"How many pages are read in {n} days?"
    days = [a * 2**i for i in range(n)]
    return q, f"The days have {', '.join(map(str, days))} pages.\nTogether {sum(days)}.", sum(days)


def percent(d):
    p, base = 10 * d.randint(1, 9), 20 * d.randint(2, 15)
    q = f"A coat costs {base} dollars. It gets {p} percent cheaper. What does it cost now?"
    off = base * p // 100
    return q, f"{p} percent of {base} is {off}.\n{base} - {off} = {base - off}.", base - off


def big(d):
    a, b = d.randint(12, 40), 100 * d.randint(3, 9)
    q = f"A mill makes {b} kg of flour a day. How many kg does it make in {a} days?"
    return q, f"{a} days make {a} * {b} = {a * b:,}.", a * b


def fence(d):
    a, b = d.randint(5, 40), d.randint(5, 40)
    q = f"A garden is {a} metres long and {b} metres wide. How long is a fence around it?"
    return q, f"Two sides of each: 2 * {a} + 2 * {b} = {2 * (a + b)}.", 2 * (a + b)


def legs(d):
    a, b = d.randint(2, 15), d.randint(2, 15)
    q = f"In a yard there are {a} hens and {b} goats. How many legs do they have together?"
    return (
        q,
        f"Hens: {a} * 2 = {2 * a}. Goats: {b} * 4 = {4 * b}.\n{2 * a} + {4 * b} = {2 * a + 4 * b}.",
        (2 * a + 4 * b),
    )


WORDS = [bought_and_gave, saving, shared, ages, trip, rows, change, doubled, percent, big, fence, legs]


def gsm8k(n, seed):
    rows_ = []
    for question, solution, answer in drawn(WORDS, n, seed):
        rows_.append({"question": question, "answer": f"{solution}\n#### {answer:,}"})
    return rows_


# --- Mathematics: each gives (problem, solution, LaTeX answer, subject) ---------------------------------


def tex(x):
    x = Fraction(x)
    sign = "-" if x < 0 else ""
    return str(x) if x.denominator == 1 else f"{sign}\\frac{{{abs(x.numerator)}}}{{{x.denominator}}}"


def linear(d):
    a, b, c = d.randint(2, 9), d.randint(-12, 12) or 5, d.randint(-20, 20)
    x = Fraction(c - b, a)
    return f"Solve ${a}x {b:+d} = {c}$ for $x$.", f"${a}x = {c - b}$, so $x = {tex(x)}$.", tex(x), "Algebra"


def quadratic(d):
    p = d.choice([-5, -4, -3, -2, 1, 2, 3, 4, 5])
    q = d.randint(7, 12)
    s, m = p + q, p * q
    text = f"What is the larger root of $x^2 {-s:+d}x {m:+d} = 0$?"
    return text, f"The roots have the sum ${s}$ and the product ${m}$: ${p}$ and ${q}$.", str(q), "Algebra"


def power_mod(d):
    a, n, m = d.randint(2, 9), d.randint(10, 60), d.choice([7, 11, 13, 17])
    r = pow(a, n, m)
    text = f"What is the remainder of ${a}^{{{n}}}$ divided by ${m}$?"
    return text, f"${a}^{{{n}}} \\equiv {r} \\pmod{{{m}}}$ by squaring.", str(r), "Number Theory"


def gcd(d):
    a, b = 6 * d.randint(4, 40), 4 * d.randint(5, 50)
    g = math.gcd(a, b)
    text = f"What is the greatest common divisor of ${a}$ and ${b}$?"
    return text, f"Euclid's algorithm on ${a}$ and ${b}$ ends in ${g}$.", str(g), "Number Theory"


def choose(d):
    n, k = d.randint(6, 12), d.randint(2, 4)
    c = math.comb(n, k)
    text = f"In how many ways can a team of ${k}$ be chosen from ${n}$ people?"
    return text, f"That is $\\binom{{{n}}}{{{k}}} = {c}$.", str(c), "Counting & Probability"


def dice(d):
    s = d.randint(3, 11)
    n = sum(a + b == s for a, b in itertools.product(range(1, 7), repeat=2))
    text = f"Two fair dice are thrown. What is the probability that they add up to ${s}$?"
    return text, f"${n}$ of ${36}$ throws do.", tex(Fraction(n, 36)), "Counting & Probability"


def triangle(d):
    a, b, c = d.choice([(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29)])
    k = d.randint(1, 6)
    text = f"The legs of a right triangle are ${a * k}$ and ${b * k}$. How long is its hypotenuse?"
    return (
        text,
        f"By Pythagoras it is $\\sqrt{{{(a * k) ** 2} + {(b * k) ** 2}}} = {c * k}$.",
        str(c * k),
        "Geometry",
    )


def circle(d):
    r = d.randint(2, 30)
    text = f"What is the area of a circle with the diameter ${2 * r}$?"
    return text, f"The radius is ${r}$, so it is $\\pi \\cdot {r}^2$.", f"{r * r}\\pi", "Geometry"


def fractions(d):
    a, b = Fraction(d.randint(1, 8), d.randint(2, 9)), Fraction(d.randint(1, 8), d.randint(2, 9))
    return (
        f"Compute ${tex(a)} + {tex(b)}$.",
        "With one denominator the numerators add.",
        tex(a + b),
        "Prealgebra",
    )


def vector(d):
    a, b, c, e = (d.randint(-6, 9) for _ in range(4))
    dot = a * c + b * e
    text = f"What is the dot product of $({a}, {b})$ and $({c}, {e})$?"
    return text, f"It is $({a})({c}) + ({b})({e}) = {dot}$.", str(dot), "Precalculus"


def log2(d):
    n, k = d.randint(2, 9), d.choice([2, 3, 5])
    return f"What is $\\log_{{{k}}} {k**n}$?", f"${k}^{n} = {k**n}$.", str(n), "Intermediate Algebra"


SCHOOL = [linear, quadratic, power_mod, gcd, choose, dice, triangle, circle, fractions, vector, log2]


def hendrycks(n, seed):
    found = drawn(SCHOOL, n, seed)
    return [
        {
            "problem": p,
            "level": f"Level {1 + i % 3}",
            "type": s,
            "solution": f"{w} The answer is $\\boxed{{{a}}}$.",
        }
        for i, (p, w, a, s) in enumerate(found)
    ]


def math_500(n, seed):
    return [
        {
            "problem": p,
            "solution": f"{w} The answer is $\\boxed{{{a}}}$.",
            "answer": a,
            "subject": s,
            "level": 1 + i % 3,
            "unique_id": f"sample/{i}.json",
        }
        for i, (p, w, a, s) in enumerate(drawn(SCHOOL, n, seed))
    ]


def squares(d):
    n = d.randint(10, 90)
    s = n * (n + 1) * (2 * n + 1) // 6
    return f"Find the sum of the squares of the first ${n}$ positive integers.", "", str(s), "Algebra"


def divisors(d):
    a, b, c = d.randint(1, 6), d.randint(1, 5), d.randint(1, 3)
    n = 2**a * 3**b * 5**c
    return (
        f"How many positive divisors does ${n}$ have?",
        "",
        str((a + 1) * (b + 1) * (c + 1)),
        "Number Theory",
    )


def both(d):
    n, (a, b) = 100 * d.randint(2, 9), d.sample([3, 4, 5, 6, 7, 9, 10], 2)
    k = n // a + n // b - n // math.lcm(a, b)
    return f"How many integers from $1$ to ${n}$ are divisible by ${a}$ or by ${b}$?", "", str(k), "Counting"


def zeros(d):
    n = d.randint(30, 400)
    k = sum(n // 5**i for i in range(1, 5))
    return f"With how many zeros does ${n}!$ end?", "", str(k), "Number Theory"


def geometric(d):
    r, a = Fraction(d.randint(1, 4), d.randint(5, 9)), d.randint(2, 9)
    text = f"Find ${a} + {a}r + {a}r^2 + \\cdots$ for $r = {tex(r)}$."
    return text, "", tex(a / (1 - r)), "Algebra"


def polaris(n, seed):
    found = drawn([squares, divisors, both, zeros, geometric, power_mod], n, seed)
    return [
        {"problem": p, "answer": a, "difficulty": f"{1 + i % 7}/8"} for i, (p, _, a, _) in enumerate(found)
    ]


def integral(d):
    n, b = d.randint(1, 5), d.randint(1, 4)
    x = Fraction(b ** (n + 1), n + 1)
    return f"Evaluate $\\int_0^{{{b}}} x^{{{n}}} \\, dx$.", "", tex(x), "Calculus"


def determinant(d):
    a, b, c, e = (d.randint(-7, 9) for _ in range(4))
    text = f"Find the determinant of $\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {e} \\end{{pmatrix}}$."
    return text, "", str(a * e - b * c), "Linear Algebra"


def order(d):
    p = d.choice([7, 11, 13, 17, 19, 23])
    a = d.randint(2, p - 2)
    k = next(k for k in range(1, p) if pow(a, k, p) == 1)
    return (
        f"What is the order of ${a}$ in the multiplicative group modulo ${p}$?",
        "",
        str(k),
        "Abstract Algebra",
    )


def limit(d):
    a, b = d.randint(2, 12), d.randint(2, 12)
    text = f"Find $\\lim_{{x \\to 0}} \\frac{{\\sin({a}x)}}{{{b}x}}$."
    return text, "", tex(Fraction(a, b)), "Calculus"


def cyclic(d):
    n = d.randint(12, 150)
    k = sum(math.gcd(i, n) == 1 for i in range(1, n + 1))
    return f"How many generators does the cyclic group of order ${n}$ have?", "", str(k), "Abstract Algebra"


def deepmath(n, seed):
    return [
        {
            "question": p,
            "final_answer": a,
            "difficulty": 3.0 + i % 4,
            "topic": f"Mathematics -> {s}",
            **{f"r1_solution_{k}": f"The answer is \\boxed{{{a}}}." for k in (1, 2, 3)},
        }
        for i, (p, _, a, s) in enumerate(drawn([integral, determinant, order, limit, cyclic], n, seed))
    ]


def drawn(makers, n, seed):
    """n different problems, the makers in turn."""
    draw, found = random.Random(seed), {}
    for maker in itertools.cycle(makers):
        if len(found) == n:
            return list(found.values())
        problem = maker(draw)
        found.setdefault(problem[0], problem)
    return []


def without(rows_, column, others):
    known = {row[column] for row in others}
    return [row for row in rows_ if row[column] not in known]


def samples():
    """{path in the folder: rows}."""
    words, held_out = gsm8k(110, 1), gsm8k(30, 2)
    school, apart = hendrycks(75, 3), math_500(20, 4)
    return {
        "gsm8k/train.jsonl": without(words, "question", held_out)[:100],
        "gsm8k/test.jsonl": held_out,
        "hendrycks_math/train.jsonl": without(school, "problem", apart)[:60],
        "MATH-500/test.jsonl": apart,
        "Polaris-Dataset-53K/train.jsonl": polaris(60, 5),
        "DeepMath-103K/train.jsonl": deepmath(60, 6),
    }


def main(folder):
    for name, rows_ in samples().items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows_))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else SHIPPED)
