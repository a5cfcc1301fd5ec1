"""tinker-cookbook's sympy grader, called as its environment does, but for the thread with a time limit that
this starts for each answer and that can't end it."""

from __future__ import annotations

import importlib.metadata

from tinker_cookbook.recipes.math_rl.math_grading import extract_boxed, grade_answer

name = f"tinker-cookbook {importlib.metadata.version('tinker-cookbook')}, sympy"
boxed, killed = True, True


def grade(text: str, reference: str) -> bool:
    try:
        answer = extract_boxed(text)
    except ValueError:
        return False
    return grade_answer(answer, reference)
