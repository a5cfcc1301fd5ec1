"""L1 of a renderer: what the loops rely on of every chat format, on a few conversations and many tokens.

A format that can't hold one of these says so in `Renderer.exceptions`, and is held to no more than that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CookbookError
from ..rendering import Rendered, Renderer, Tokenizer, get_renderer
from ..types import Message
from .limits import TookTooLong, deadline
from .rules import Report
from .tokens import CALLS, byte_level

PATIENCE_S = 30.0
LISTS = 300
"""Of random tokens, that are read."""
_FAULTS = (Exception, SystemExit, TookTooLong)
_TOOLS = ("<tool_response>", "</tool_response>")
_SAID = [
    "a",
    "Yes.",
    "two\n\nparagraphs",
    "Zoë „q“ 🙂 東京",
    '{"a": [1, 2]}',
    "x < 5 & y",
    "User: hi",
    "1,234",
]


def check_renderer(renderer: str | Renderer, tokenizer: Tokenizer | None = None) -> Report:
    """Holds a chat format to what the loops rely on.

    renderer: an id in the registry, or a renderer itself. tokenizer: for an id; without one, a tokenizer of
    bytes that has the control tokens of ChatML and of Qwen3's calls. A format of others needs its own.
    """
    name = renderer if isinstance(renderer, str) else renderer.id or type(renderer).__name__
    report = Report(f"renderer {name}")
    try:
        with deadline(PATIENCE_S):
            made = renderer
            if isinstance(made, str):
                made = get_renderer(made, tokenizer or _bytes())
            made.build_generation_prompt([Message(role="user", content="a")])
    except CookbookError as error:
        if isinstance(renderer, str) and tokenizer is None and "there is no renderer" not in str(error):
            report.unchecked["L1.renderer-builds"] = f"the tokenizer of bytes isn't this format's: {error}"
        else:
            report.find("L1.renderer-builds", str(error))
        return report
    except _FAULTS as error:
        report.find("L1.renderer-builds", f"{type(error).__name__}: {error}")
        return report
    _Check(made, report).all()
    return report


def _bytes() -> Tokenizer:
    """Named like a folder, where a format that looks for files of its model finds none without the hub."""
    return Tokenizer(byte_level((*CALLS, *_TOOLS)), str(Path(__file__).parent))


@dataclass(frozen=True, slots=True)
class _Check:
    renderer: Renderer
    report: Report

    def all(self) -> None:
        for rule, look in (
            ("L1.renderer-parse", self.reads_anything),
            ("L1.renderer-builds", self.renders),
            ("L1.renderer-control", self.keeps_text),
            ("L1.renderer-bridge", self.bridges),
        ):
            try:
                with deadline(PATIENCE_S):
                    look()
            except _FAULTS as error:
                self.report.find(rule, f"{type(error).__name__}: {error}")

    def reads_anything(self) -> None:
        """Random tokens: a tokenizer's own, such that there aren't, and the stops."""
        draw, tokenizer = random.Random(0), self.renderer.tokenizer
        stops = [id for id in self.renderer.get_stop_sequences() if isinstance(id, int)]
        pool = [*range(len(tokenizer)), *(stops * (len(tokenizer) // 8)), -1, len(tokenizer) + 7, 1 << 40]
        prompt = self.renderer.build_generation_prompt([Message(role="user", content="a")]).token_ids
        for n in range(LISTS):
            ids = draw.choices(pool, k=draw.randrange(12))
            try:
                parsed = self.renderer.parse_response(ids, prompt_ids=prompt if n % 2 else None)
            except Exception as error:  # somebody's code
                self.report.find("L1.renderer-parse", f"{ids}: {type(error).__name__}: {error}")
                return
            if parsed.message["role"] != "assistant" or not isinstance(parsed.message["content"], str):
                self.report.find("L1.renderer-parse", f"{ids} are read as {dict(parsed.message)}")

    def renders(self) -> None:
        """Each conversation of a few: its last reply as it is trained, and as it is read."""
        for messages in self.conversations():
            prompt = self.renderer.build_generation_prompt(messages[:-1])
            example = self.trained(messages)
            what = f"{messages[-1]['content']!r}"
            if not self.weighs(prompt, example, what):
                return
            at = example.weights.index(1.0)
            if example.token_ids[:at] != prompt.token_ids:
                self.report.find("L1.renderer-prompt", f"before {what}: {self.differ(example, prompt, at)}")
                return
            self.reads(messages[-1], prompt, example.token_ids[at:])

    def weighs(self, prompt: Rendered, example: Rendered, what: str) -> bool:
        problem = ""
        for name, rendered in (("the prompt", prompt), ("the example", example)):
            if len(rendered.weights) != len(rendered.token_ids):
                problem = f"{name} has {len(rendered.token_ids)} tokens, {len(rendered.weights)} weights"
            elif set(rendered.weights) - {0.0, 1.0}:
                problem = f"{name} has the weights {sorted(set(rendered.weights))}"
        if not problem and any(prompt.weights):
            problem = "the prompt has weights that aren't 0"
        if not problem and 1.0 not in example.weights:
            problem = "no token of the example has weight 1"
        if not problem:
            trained = example.weights[example.weights.index(1.0) :]
            if 0.0 in trained[:-1]:
                problem = "a token within the reply has weight 0"
            elif not trained[-1]:
                self.report.find("L1.renderer-stop", f"{what}: the last token has weight 0")
                return False
        if problem:
            self.report.find("L1.renderer-weights", f"{what}: {problem}")
        return not problem

    def reads(self, said: Message, prompt: Rendered, reply: list[int]) -> None:
        parsed = self.renderer.parse_response(reply, prompt_ids=prompt.token_ids)
        if not parsed.stopped:
            self.report.find("L1.renderer-stop", f"{said['content']!r} is trained without a stop at its end")
        elif parsed.message["content"] != said["content"] or parsed.problem:
            read = f"{parsed.message['content']!r} {parsed.problem}".strip()
            self.report.find("L1.renderer-round-trip", f"{said['content']!r} is read as {read}")

    def keeps_text(self) -> None:
        """What the format itself writes as a control token, said by somebody."""
        for name in self.controls():
            for role in ("user", "assistant"):
                ids = [self.control_ids(role, text) for text in (f"a {name} b", "a word b")]
                if ids[0] != ids[1]:
                    self.report.find("L1.renderer-control", f"{name!r} in the text of role {role!r}")
                    return

    def bridges(self) -> None:
        """A second question after each reply, to the end and, where stops are tokens, cut off before it."""
        more = [Message(role="user", content="And then?")]
        stops = self.renderer.get_stop_sequences()
        for messages in self.conversations():
            prompt = self.renderer.build_generation_prompt(messages[:-1]).token_ids
            tokens = self.trained(messages).token_ids
            whole = self.renderer.build_generation_prompt([*messages, *more]).token_ids
            if tokens[: len(prompt)] != prompt:
                return  # which is found already
            cut = [(tokens[:-1], False)] if tokens[-1] in stops else []
            for before, stopped in [(tokens, True), *cut]:
                bridge = self.renderer.bridge(before, stopped, more)
                if bridge is not None and before + bridge != whole:
                    how = "" if stopped else ", which was cut off"
                    got, ought = self.shown(bridge), self.shown(whole[len(before) :])
                    self.report.find(
                        "L1.renderer-bridge", f"after {messages[-1]['content']!r}{how}: {got}, not {ought}"
                    )
                    return

    def conversations(self) -> Iterator[list[Message]]:
        """Each ends with a reply, and is written as this format's own models would say it."""
        thinks = "no reasoning" in self.renderer.exceptions
        tokenizer = self.renderer.tokenizer
        for said in _SAID:
            if tokenizer.decode(tokenizer.encode(said)) != said:
                continue  # not every vocabulary has every byte
            user, reply = Message(role="user", content=said), Message(role="assistant", content=said)
            last = Message(role="assistant", content=said)
            if thinks:
                last["reasoning_content"] = "Let me think."
            yield [user, last]
            yield [user, reply, user, last]

    def trained(self, messages: Sequence[Message]) -> Rendered:
        return self.renderer.build_supervised_example(messages, train_on_what="last_assistant_message")

    def controls(self) -> list[str]:
        """How the control tokens that the format writes are spelt."""
        tokenizer, ids = self.renderer.tokenizer, self.renderer.get_stop_sequences()
        written = [id for messages in self.conversations() for id in self.trained(messages).token_ids]
        spelt = {id: tokenizer.decode([id]) for id in [*written, *ids] if isinstance(id, int)}
        return [text for id, text in spelt.items() if tokenizer.split(text) == [id]]

    def control_ids(self, role: str, text: str) -> list[Any]:
        messages = [Message(role="user", content="?"), Message(role=role, content=text)]
        if role == "assistant":
            messages.append(Message(role="user", content="?"))
        ids = self.renderer.build_generation_prompt(messages).token_ids
        return [
            id for id in ids if self.renderer.tokenizer.split(self.renderer.tokenizer.decode([id])) == [id]
        ]

    def differ(self, example: Rendered, prompt: Rendered, at: int) -> str:
        return f"{self.shown(example.token_ids[:at])}, and as a prompt {self.shown(prompt.token_ids)}"

    def shown(self, ids: Sequence[int]) -> str:
        text = repr(self.renderer.tokenizer.decode(ids))
        return text if len(text) <= 60 else f"...{text[-57:]}"
