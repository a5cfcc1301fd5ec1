"""The sets of problems with answers: where they lie, what their columns are, and worked examples."""

from __future__ import annotations

import chz

from .extraction import boxed
from .problems import Problems, ProblemSet
from .rows import HubSet


def after_hashes(solution: str) -> str | None:
    """The number after the last ####, without commas between its digits; None where there is none."""
    _, found, answer = solution.rpartition("####")
    return answer.strip().replace(",", "") or None if found else None


_GSM8K = HubSet(
    "openai/gsm8k", "question", "answer", after_hashes, "a solution that ends in #### 42, say", ("main",)
)
_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_MATH = HubSet(
    "EleutherAI/hendrycks_math",
    "problem",
    "solution",
    boxed,
    "a solution with its result in \\boxed{...}",
    _SUBJECTS,
)
_MATH_500 = HubSet("HuggingFaceH4/MATH-500", "problem", "answer", str.strip, "the result alone")
_POLARIS = HubSet("POLARIS-Project/Polaris-Dataset-53K", "problem", "answer", str.strip, "the result alone")
_DEEPMATH = HubSet("zwhe99/DeepMath-103K", "question", "final_answer", str.strip, "the result alone")

_WORD_PROBLEMS = (
    (
        "A shelf has 4 rows of 6 jars, and 5 jars are empty. How many jars are full?",
        "There are 4 * 6 = 24 jars. Of these, 24 - 5 = 19 are full. \\boxed{19}",
    ),
    (
        "Nora walks 3 km to school and back on each of 5 days. How many kilometres is that?",
        "There and back is 3 + 3 = 6 km. In 5 days that is 5 * 6 = 30 km. \\boxed{30}",
    ),
    (
        "A rope of 60 metres is cut into pieces of 4 metres, and a third of them is sold. How many are left?",
        "There are 60 / 4 = 15 pieces. A third of them is 15 / 3 = 5, so 15 - 5 = 10 are left. \\boxed{10}",
    ),
    (
        "Tickets cost 8 euros, and 3 euros less for children. What do 2 adults and 3 children pay together?",
        "The adults pay 2 * 8 = 16. A child pays 8 - 3 = 5, so three pay 15. 16 + 15 = 31. \\boxed{31}",
    ),
)
_MATHEMATICS = (
    (
        "What is the sum of all positive divisors of $12$?",
        "The divisors are $1, 2, 3, 4, 6, 12$, and their sum is $28$. \\boxed{28}",
    ),
    (
        "Solve $2x + 7 = 10$ for $x$.",
        "Subtracting $7$ gives $2x = 3$, so $x = \\frac{3}{2}$. \\boxed{\\frac{3}{2}}",
    ),
    (
        "A square has the diagonal $6$. What is its area?",
        "With side $s$, $s^2 + s^2 = 36$, so the area is $s^2 = 18$. \\boxed{18}",
    ),
    (
        "What is the remainder when $3^{10}$ is divided by $7$?",
        "As $3^6 \\equiv 1 \\pmod 7$, $3^{10} \\equiv 3^4 = 81 \\equiv 4 \\pmod 7$. \\boxed{4}",
    ),
)


@chz.chz(typecheck=True)
class GSM8K(Problems):
    """Grade-school word problems (Cobbe et al. 2021): openai/gsm8k, 7473 to train on and 1319 held out."""

    suffix: str = chz.field(
        default=" Reason step by step, and put the answer, a number without units, in \\boxed{}.",
        doc="what follows a problem",
    )

    def about(self) -> ProblemSet:
        return ProblemSet(_GSM8K, _GSM8K, _WORD_PROBLEMS)


@chz.chz(typecheck=True)
class Hendrycks(Problems):
    """Competition problems (Hendrycks et al. 2021): both splits of EleutherAI/hendrycks_math.

    The test split is HuggingFaceH4/MATH-500 (Lightman et al. 2023), whose problems aren't trained on.
    """

    def about(self) -> ProblemSet:
        return ProblemSet(_MATH, _MATH_500, _MATHEMATICS, ("train", "test"))


@chz.chz(typecheck=True)
class Polaris(Problems):
    """Hard problems that were chosen for reinforcement learning: POLARIS-Project/Polaris-Dataset-53K.

    It has no test split: a share of it, told by the problem's text alone, is held out.
    """

    def about(self) -> ProblemSet:
        return ProblemSet(_POLARIS, None, _MATHEMATICS)


@chz.chz(typecheck=True)
class DeepMath(Problems):
    """Hard problems cleaned of known benchmarks (He et al. 2025): zwhe99/DeepMath-103K.

    It has no test split: a share of it, told by the problem's text alone, is held out.
    """

    def about(self) -> ProblemSet:
        return ProblemSet(_DEEPMATH, None, _MATHEMATICS)
