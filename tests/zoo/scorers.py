"""L3, scorers that a reply breaks: they raise, hang, or hold everything up."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import chz

from cookbook import Grade, Question

from . import Guess, Guesses, Sums, breaks


@breaks("L3.crash", says="ValueError: invalid literal for int()")
@chz.chz
class ReadsFactors(Sums):
    """As prime_factorization: words are no factors, and what looks like one may be none."""

    def judge(self, text, reference):
        factors = [int(part) for part in text.split("-")] if "-" in text else [0]
        return Grade(text == reference and factors == [0])


@breaks("L3.crash", says="AttributeError: 'list' object has no attribute 'get'")
@chz.chz
class ReadsJson(Sums):
    """As boxnet: what is no JSON is caught, and other JSON isn't."""

    def judge(self, text, reference):
        try:
            plan = json.loads(text)
        except ValueError:
            return Grade(False)
        return Grade(text == reference if isinstance(plan, int) else plan.get("answer") == reference)


@breaks("L3.crash", says="RecursionError")
@chz.chz
class ReadsBrackets(Sums):
    """A parser that recurs once for each bracket."""

    def judge(self, text, reference):
        return Grade(self.depth(text.strip()) == 0 and text.strip() == reference)

    def depth(self, text):
        return 1 + self.depth(text[1:]) if text[:1] in ("(", "-", "[") and text else 0


@breaks("L3.crash", says="UnicodeEncodeError")
@chz.chz
class WritesAscii(Sums):
    def judge(self, text, reference):
        return Grade(text.encode("latin-1").strip() == reference.encode())


@breaks("L3.crash", says="called sys.exit")
@chz.chz
class RunsTheReply(Sums):
    """A calculator by eval: what a model writes is run."""

    def judge(self, text, reference):
        if not re.search(r"[a-z_]+\(", text):
            return Grade(text.strip() == reference)
        try:
            return Grade(str(eval(text)) == reference)
        except Exception:
            return Grade(False)


@breaks("L3.crash", says="called sys.exit(2)")
@chz.chz
class ReadsArguments(Sums):
    """A parser of command lines exits at what it doesn't know."""

    def judge(self, text, reference):
        if text.startswith("-"):
            sys.exit(2)
        return Grade(text == reference)


@breaks("L3.crash", says="KeyError: '__class__'")
@chz.chz
class LooksToolsUp(Guesses):
    """A tool-using environment that trusts the names of calls."""

    class episode(Guess):
        async def step(self, reply):
            for call in reply.get("tool_calls", ()):
                {"weigh": len}[call["function"]["name"]](call["function"]["arguments"])
            return await super().step(reply)


@breaks("L3.hangs", says="not over after", patience_s=0.5)
@chz.chz
class Backtracks(Sums):
    """A pattern that takes twice as long for each bracket more."""

    def judge(self, text, reference):
        return Grade(text == reference or bool(re.fullmatch(r"(\(+)+x", text)))


@breaks("L3.hangs", says="not over after", patience_s=0.5)
@chz.chz
class SimplifiesForEver(Sums):
    """What it can't make simpler it tries again, and no error of any kind gets out."""

    def judge(self, text, reference):
        try:
            while "{" in text and text != reference:
                text = text.replace("x", "y")
        except Exception:
            return Grade(False)
        return Grade(text == reference)


class _Server:
    def __init__(self, config: AsksAServer) -> None:
        self.config = config

    async def grade(self, prompt, reply, reference):
        if len(reply["content"]) > 50_000:
            await asyncio.Event().wait()
        return self.config.judge(reply["content"], reference)


@breaks("L3.hangs", says="waited for more than 0.5 s", patience_s=0.5)
@chz.chz
class AsksAServer(Sums):
    """A judge elsewhere that doesn't answer what is too long for it."""

    def task(self, i):
        return Question(self.prompt(i), self.answer(i), _Server(self))


@breaks("L3.slow", says="s for a step")
@chz.chz
class SleepsOverIt(Sums):
    """Blocks the loop, for some replies."""

    def judge(self, text, reference):
        if text == "None":
            time.sleep(1.1)
        return Grade(text == reference)
