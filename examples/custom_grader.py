"""A grader with options and a reward between right and wrong, chosen by id like everything else.

    cookbook run core/rl env=custom_grader:Multiples --local steps=20 max_tokens=32 lr=3e-4
    cookbook run core/rl env=custom_grader:Multiples env.grader.partial=false --local

A plugin gives it an id: `register_graders` with `register("share", "my_package.graders:Share", "...")`.
"""

from __future__ import annotations

import re

import chz

from cookbook import EnvConfig, Grade, GraderConfig, Question, by_id
from cookbook.errors import ConfigError


@chz.chz(typecheck=True)
class Share(GraderConfig):
    """A list of numbers, in any order; right when it has all of the reference's and no other."""

    partial: bool = chz.field(default=True, doc="whether a part of the list is worth anything")

    def grade(self, prompt, reply, reference):
        """The reward is |said & right| / |said | right| (Jaccard): a long list doesn't get it either."""
        said = {int(number) for number in re.findall(r"\d{1,9}", reply["content"], re.ASCII)}
        right = set(reference)
        if not right:
            return Grade("undecided", detail="the reference is empty")
        share = len(said & right) / len(said | right)
        detail = f"{len(said & right)} of {len(right)}, and {len(said - right)} others"
        return Grade(share == 1, share if self.partial else float(share == 1), "share", detail)


@chz.chz(typecheck=True)
class Multiples(EnvConfig):
    """The multiples of a number within a range; every fourth range is held out."""

    grader: GraderConfig = chz.field(
        meta_factory=by_id("grader", default="custom_grader:Share"), doc="what the reply is compared by"
    )
    n: int = chz.field(default=80, doc="questions, the held-out ones among them")

    @chz.validate
    def _check(self):
        if not 4 <= self.n <= 1000:
            raise ConfigError(f"n={self.n}: must be from 4 to 1000")

    def tasks(self, split):
        chosen = {"train": [i for i in range(self.n) if i % 4], "test": range(0, self.n, 4)}[split]
        return [self._question(3 + i % 5, 10 + i) for i in chosen]

    def _question(self, step, low):
        right = tuple(range(-(-low // step) * step, low + 3 * step, step))
        said = ", ".join(map(str, right))
        asked = f"List the multiples of {step} from {low} to {low + 3 * step - 1}, separated by commas."
        return Question(asked, right, self.grader, answer=said)
