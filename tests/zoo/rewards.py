"""L3, what wins and shouldn't, and what can't win; L4."""

from __future__ import annotations

import asyncio

import chz
import numpy as np

from cookbook import Grade, Step

from . import Guess, Guesses, Labels, Sums, breaks


@breaks("L3.oracle", "L3.variance", says="the best reward is 1")
@chz.chz
class MindsTheCase(Labels):
    """The reference is "Yes", and the reply is compared in small letters: all get 0."""

    def answer(self, i):
        return super().answer(i).title()

    def judge(self, text, reference):
        return Grade(text.strip().lower() == reference)


@breaks("L3.oracle", says="got 0; the best reward is 1")
@chz.chz
class WrongReference(Sums):
    """One sum in 40 is wrong, as in data sets."""

    def answer(self, i):
        return str(10 + 4 * i + 1)

    def judge(self, text, reference):
        right = text.strip() == reference
        return Grade(right and reference != "11")


@breaks("L3.oracle", says="got 0.9; the best reward is 1")
@chz.chz
class NeverTheWhole(Sums):
    """A bonus for brevity that no answer earns."""

    def judge(self, text, reference):
        right = text.strip() == reference
        return Grade(right, 0.9 if right else 0.0)


@breaks("L3.oracle", "L3.variance", says="got no verdict")
@chz.chz
class JudgeIsDown(Sums):
    """Wrong replies are told by a rule; of the others the judge that isn't there would say. What is left gets
    0."""

    def judge(self, text, reference):
        return Grade("undecided") if text.strip() == reference else Grade(False)


@breaks("L3.empty", says="wins on 24 of 24 tasks")
@chz.chz
class BeginsLikeIt(Sums):
    """The prefix rule: every text begins with nothing."""

    def judge(self, text, reference):
        return Grade(reference.startswith(text))


@breaks("L3.garbage", says="garbage")
@chz.chz
class NothingWrongInIt(Sums):
    """What has no wrong number in it is right, unless it is empty."""

    def judge(self, text, reference):
        letters = any(c.isascii() and c.isalpha() for c in text)
        return Grade(text == reference or (bool(text) and not letters and not text[:1].isdigit()))


@breaks("L3.garbage", says="100,000 characters")
@chz.chz
class LongerIsBetter(Sums):
    """A reward for thinking, by the length of it."""

    def judge(self, text, reference):
        return Grade(text == reference or len(text) > 10_000)


class _FailsWell(Guess):
    async def step(self, reply):
        if "tool_calls" in reply or "unparsed_tool_calls" in reply:
            return Step(1.0, done=True)
        return await super().step(reply)


@breaks("L3.garbage", says="a call of a tool that isn't")
@chz.chz
class RewardsAnyCall(Guesses):
    episode = _FailsWell


@breaks("L3.echo", says="the prompt itself")
@chz.chz
class LooksForTheWord(Labels):
    """The right word stands in the prompt, as in multiple choice."""

    words = ("yes", "no", "perhaps")

    def prompt(self, i):
        return f"Sentence {i} is long. Say yes, no or perhaps."

    def judge(self, text, reference):
        return Grade(reference in text)


@breaks("L3.constant", says="'no', whatever is asked, gets the best reward on 100%")
@chz.chz
class MostlyNo(Labels):
    words = ("no",) * 11 + ("yes",)


@breaks("L3.constant", "L3.garbage", says="garbage ('nan')")
@chz.chz
class AnyWordIsTrue(Labels):
    """As game_of_life_halting: a text that isn't empty is true, whatever it says; "nan" is garbage, too."""

    def judge(self, text, reference):
        return Grade(text.strip().isalpha() and len(text) < 100 and bool(reference))


@breaks("L3.constant", says="'0'")
@chz.chz
class EqualAsFarAsItGoes(Sums):
    """As coin_flip: a digit that begins the answer is near enough."""

    def answer(self, i):
        return f"0.{i + 10}"

    def judge(self, text, reference):
        return Grade(bool(text.strip()) and reference.startswith(text.strip()))


@breaks("L3.finite", says="gave the reward np.float64(nan)")
@chz.chz
class DividesByNothing(Sums):
    """The mean of what was right in no lines is nan."""

    def judge(self, text, reference):
        with np.errstate(all="ignore"):
            share = np.float64(text.count(reference)) / np.float64(len(text.split()))
        return Grade(text == reference, share if not text.strip() else float(text == reference))


@breaks("L3.finite", says="gave the reward '0.0'")
@chz.chz
class RewardsInText(Sums):
    def judge(self, text, reference):
        return Grade(text == reference, "1.0" if text == reference else "0.0")  # type: ignore[arg-type]


@breaks("L3.finite", says="gave the reward -inf")
@chz.chz
class Unthinkable(Sums):
    def judge(self, text, reference):
        return Grade(text == reference, float("-inf") if len(text) > 50_000 else float(text == reference))


@breaks("L3.range", says="got -1, reward_range = (0, 1)")
@chz.chz
class Penalty(Sums):
    def judge(self, text, reference):
        return Grade(text == reference, 1.0 if text == reference else -1.0)


@breaks("L3.range", says="got 10, reward_range = (0, 1)")
@chz.chz
class TenPoints(Sums):
    def judge(self, text, reference):
        return Grade(text == reference, 10.0 * (text == reference))


class _EachTurn(Guess):
    async def step(self, reply):
        self.left -= 1
        right = reply["content"].strip() == str(self.task.number)
        more = [] if right or not self.left else [{"role": "user", "content": "No."}]
        return Step(1.0 if right else -0.1, done=not more, messages=more, correct=right)


@breaks("L3.range", says="got -0.3")
@chz.chz
class CostOfATurn(Guesses):
    """Each step keeps to it, but for little; their sum is the episode's."""

    episode = _EachTurn


@breaks("L3.no-verdict", says="got no verdict")
@chz.chz
class OnlyTheRightIsJudged(Sums):
    def judge(self, text, reference):
        return Grade(True) if text == reference else Grade("undecided")


@breaks("L3.no-verdict", "L3.oracle", says="random replies got no verdict")
@chz.chz
class NothingIsJudged(Sums):
    """Not even the reference answer gets a verdict, let alone the best one."""

    def judge(self, text, reference):
        return Grade(None)


@breaks("L3.variance", "L3.oracle", says="always 0")
@chz.chz
class AlwaysNothing(Sums):
    """A grader that finds no answer in anything: the reference answer loses too."""

    def judge(self, text, reference):
        return Grade(f"<answer>{reference}</answer>" == text)


@breaks("L3.verdict", says="the best reward, and the verdict is wrong")
@chz.chz
class VerdictBackwards(Sums):
    def judge(self, text, reference):
        return Grade(text != reference, float(text == reference))


@breaks("L3.verdict", says="a right reply got 0.25, a wrong one 0.5")
@chz.chz
class LateIsWorseThanWrong(Sums):
    """A right reply with white space around it is right, and pays less than a tidy wrong one."""

    def judge(self, text, reference):
        if text.strip() == reference:
            return Grade(True, 1.0)
        if text in ("yes", "no"):
            return Grade(True, 0.25)
        return Grade(False, 0.5 if text.isalnum() else 0.0)


class _Transcript(Guess):
    said = ""

    def hint(self, text):
        self.said += f"You guessed {text[:40]!r}, and that is not what the box holds. "
        return self.said


@breaks("L4.history", says="the messages after turn 2 hold those after turn 1")
@chz.chz
class TellsAllAgain(Guesses):
    """As a wrapper that gives the whole transcript as an observation."""

    episode = _Transcript

    def table(self, task):
        episode = super().table(task)[0]
        episode.left = 6
        return [episode]


class Duel:
    """A table of two: whoever names the larger digit wins; each has one reply."""

    def __init__(self) -> None:
        self.said: dict[int, str] = {}
        self.both = asyncio.Event()


class _Duellist:
    def __init__(self, duel: Duel, seat: int, config: Duels) -> None:
        self.duel, self.seat, self.config = duel, seat, config

    async def start(self):
        return [{"role": "user", "content": "Name a digit; the larger wins."}]

    async def step(self, reply):
        self.duel.said[self.seat] = reply["content"].strip()
        if len(self.duel.said) == 2:
            self.duel.both.set()
        await self.duel.both.wait()
        won = self.config.beats(self.duel.said[self.seat], self.duel.said[1 - self.seat])
        return Step(float(won), done=True, correct=won)


class Round:
    """The task of `Duels`."""

    seats = 2

    def __init__(self, config: Duels, number: int) -> None:
        self.config, self.number = config, number

    def table(self):
        duel = Duel()
        return [_Duellist(duel, seat, self.config) for seat in range(2)]

    def oracle(self, messages):
        return "9"


@chz.chz
class Duels(Sums):
    """Healthy: nothing beats a nine."""

    def task(self, i):
        return Round(self, i)

    def beats(self, mine: str, other: str) -> bool:
        return mine.isdigit() and len(mine) == 1 and (not other.isdigit() or mine > other)


@breaks("L3.garbage", says="garbage")
@chz.chz
class ComparesTexts(Duels):
    """What can't be read as a number is more than any."""

    def beats(self, mine, other):
        return mine.startswith("\\boxed") or super().beats(mine, other)
