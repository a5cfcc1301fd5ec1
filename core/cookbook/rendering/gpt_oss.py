"""gpt-oss, OpenAI's Harmony format: a message a channel (analysis, commentary, final), calls addressed by
recipient. Where the library openai-harmony and the chat template differ, the library is followed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Literal

from ..errors import RendererError
from ..types import Message
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain, only_text
from .reading import after_last, reply
from .stream import Region, Step
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, typescript
from .tools.section_calls import not_an_object

_IDENTITY = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: "
)
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_FUNCTIONS = "\nCalls to these tools must go to the commentary channel: 'functions'."
_RECIPIENT = re.compile(r"to=(\S+?)(?=<\||\s|$)")


class GptOss(Renderer):
    """effort: how much the system message asks to reason; None: no system message, and earlier analysis is
    kept, as tinker-cookbook's gpt_oss_no_sysprompt has it. current_date: YYYY-MM-DD, what the system message
    says; today's where none is given."""

    exceptions = {"several calls": "each ends with a stop, so that a model says one in a reply"}

    _weighs_replies = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        effort: Literal["low", "medium", "high"] | None = "medium",
        current_date: str | None = None,
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.effort = effort
        self.current_date = current_date or datetime.date.today().isoformat()
        self.options = {"current_date": self.current_date}  # recorded: a run that goes on keeps its date
        names = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>", "<|return|>")
        ids = [tokenizer.control(name) for name in names]
        self._start, self._message, self._channel, self._end, self._call, self._return = ids

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if self.effort is not None:
            out.header(f"<|start|>system<|message|>{_IDENTITY}{self.current_date}\n\n")
            out.header(f"Reasoning: {self.effort}\n\n{_CHANNELS}{_FUNCTIONS if tools else ''}<|end|>")
        first = self._write_developer(out, messages, tools)
        answered = self._last_answer(messages, prompt)
        names = {call.id: call.name for message in messages for call in message.calls if call.id}
        called = ""
        for i, message in enumerate(messages[first:], first):
            out.begin(i, reply=message.role == "assistant")
            if message.role == "assistant":
                final = i + 1 == len(messages) and not prompt
                self._write_reply(out, message, i > answered or self.effort is None, final)
                called = message.calls[-1].name if message.calls else called
            elif message.role == "tool":
                out.header("<|start|>")
                out.text(_recipient(message.name or names.get(message.call_id or "") or called), "header")
                out.header(" to=assistant<|channel|>commentary<|message|>")
                out.text(only_text(message, "GptOss"))
                out.stop("<|end|>")
            elif message.role == "user":
                out.header("<|start|>user<|message|>")
                out.text(only_text(message, "GptOss"))
                out.stop("<|end|>")
            elif message.role not in ("system", "developer"):
                raise RendererError(f"messages[{i}]: GptOss has no form for the role {message.role!r}")
            elif not self.hf_parity or self.effort is None:  # the template passes over it
                self._write_instructions(out, message)
                out.stop("<|end|>")
        if prompt:
            out.begin(len(messages), reply=True)
            out.header("<|start|>assistant")

    def _write_developer(self, out: Draft, messages: Sequence[Plain], tools: Tools) -> int:
        """The first system message's instructions, and the tools; returns how many messages that contains."""
        has_system = bool(messages) and messages[0].role in ("system", "developer")
        said = has_system and (messages[0].text or self.effort is None)
        out.begin(0 if has_system else None)
        if said:
            self._write_instructions(out, messages[0])
        elif tools:
            out.header("<|start|>developer<|message|>")
        if tools:
            out.text(typescript.harmony(tools))
        if said or tools:
            out.stop("<|end|>")
        return int(has_system)

    def _write_instructions(self, out: Draft, message: Plain) -> None:
        out.header("<|start|>developer<|message|># Instructions\n\n")
        out.text(only_text(message, "GptOss"))
        out.own("\n\n")

    def _last_answer(self, messages: Sequence[Plain], prompt: bool) -> int:
        """The place of the last answer, up to which analysis is left out. What a target is trained on, and
        what stood in its prompt, stays; the template leaves out the analysis before the calls of its turn."""
        history = messages if prompt or self.hf_parity else messages[:-1]
        answers = [
            i for i, message in enumerate(history) if message.role == "assistant" and not message.calls
        ]
        last = max(answers, default=-1)
        return last - 1 if last == len(messages) - 1 and not prompt else last

    def _write_reply(self, out: Draft, message: Plain, reasoned: bool, final: bool) -> None:
        """final: nothing follows, so that an answer ends as a model ends it."""
        out.header("<|start|>assistant")
        text = only_text(message, "GptOss", calls=True)
        text += "".join(message.broken)  # whatever it was addressed to
        between = ""
        empty = (
            message.thinking == "" and self.hf_parity and self.effort is not None
        )  # the template writes it
        if reasoned and (message.thinking or empty):
            out.own("<|channel|>analysis<|message|>")
            out.text(message.thinking or "")
            between = "<|end|><|start|>assistant"
        if text or not message.calls:
            out.own(f"{between}<|channel|>{'commentary' if message.calls else 'final'}<|message|>")
            out.text(text)
            between = "<|end|><|start|>assistant"
        for n, call in enumerate(message.calls):
            if n:
                out.stop("<|call|>")
                out.header("<|start|>assistant")
                between = ""
            out.own(f"{between} to=")
            out.text(_recipient(call.name))
            out.own("<|channel|>commentary <|constrain|>json<|message|>")
            out.text(call.arguments)
        if message.calls:
            out.stop("<|call|>")
        elif final:
            out.stop("<|return|>")
        else:
            out.header("<|end|>")  # no model samples it here

    def get_stop_sequences(self) -> list[int]:
        return [self._return, self._call]

    def _read(
        self, token_ids: list[int], prompt_ids: Sequence[int], stop: int | None, tools: Tools
    ) -> tuple[Message, str]:
        texts: dict[str, list[str]] = {"analysis": [], "commentary": [], "final": []}
        calls: list[Call] = []
        unparsed: list[Unparsed] = []
        problem = ""
        for header, body in self._parts(token_ids, prompt_ids):
            said = self.tokenizer.decode(header)
            text = self.tokenizer.decode([id for id in body if id != self._end])
            channel = said.partition("<|channel|>")[2].replace("<|", " ").split()
            recipient = _RECIPIENT.search(said)
            if recipient:
                call = _call(recipient.group(1), text)
                calls += [call] if isinstance(call, Call) else []
                unparsed += [call] if isinstance(call, Unparsed) else []
            elif channel and channel[0] in texts:
                texts[channel[0]].append(text)
            else:
                problem = problem or f"no channel of this format: {said[:60]!r}"
                texts["final"].append(text)
        if stop == self._call and not (calls or unparsed):
            problem = problem or "a call without a recipient"
        if stop == self._return and not (texts["final"] or calls or unparsed):
            problem = problem or "no message in the final channel"
        content = "".join(texts["commentary"] + texts["final"])
        message = reply(content, "".join(texts["analysis"]), calls, unparsed)
        return message, problem or (unparsed[0].reason if unparsed else "")

    def _parts(self, token_ids: list[int], prompt_ids: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """A reply's messages: the ids of their headers and of their contents. What a prompt began goes on."""
        begun = self._begun(prompt_ids)
        parts: list[tuple[list[int], list[int]]] = []
        header, body = [*begun], [] if self._message in begun else None
        for id in token_ids:
            if id == self._start:
                if header or body:
                    parts.append((header, body or []))
                header, body = [], None
            elif body is None and id == self._message:
                body = []
            else:
                (header if body is None else body).append(id)
        if body is not None or _RECIPIENT.search(self.tokenizer.decode(header)):
            return [*parts, (header, body or [])]
        sampled = header[len(begun) :] if not parts else header
        return [*parts, ([], sampled)] if sampled and self._channel not in header else parts

    def _begun(self, prompt_ids: Sequence[int]) -> list[int]:
        """What a prompt has of the message to come."""
        return after_last(prompt_ids, self._start) if self._start in prompt_ids else []

    def _steps(self, prompt_ids: Sequence[int]) -> Step:
        header = list(self._begun(prompt_ids))
        region: Region | None = self._region(header) if self._message in header else None

        def step(id: int) -> Region | None:
            nonlocal header, region
            if id in (self._start, self._end):
                header, region = [], None
                return None
            if region is not None:
                return region
            if id == self._message:
                region = self._region(header)
            else:
                header.append(id)
            return None

        return step

    def _region(self, header: list[int]) -> Region:
        said = self.tokenizer.decode(header)
        if _RECIPIENT.search(said):
            return "call"
        return "reasoning" if said.partition("<|channel|>")[2].startswith("analysis") else "content"

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """An answer's stop, <|return|>, is written otherwise in history, and its analysis left out."""
        return not token_ids or token_ids[-1] != self._call

    def _before(self, token_ids: Sequence[int]) -> list[Plain]:
        recipient = _RECIPIENT.search(self.tokenizer.decode(after_last(token_ids, self._start)))
        name = recipient.group(1).removeprefix("functions.") if recipient else ""
        return [Plain("assistant", calls=[Call(name, "")])]


def _recipient(name: str) -> str:
    """A function's address; a built-in tool is its own."""
    return name if name == "python" or name.startswith("browser.") else f"functions.{name}"


def _call(recipient: str, arguments: str) -> Call | Unparsed:
    """A function's arguments are JSON; a built-in tool (python, say) takes what it takes."""
    if not recipient.startswith("functions."):
        return Call(recipient, arguments)
    if reason := not_an_object(arguments):
        return Unparsed(arguments, f"to={recipient}: {reason}")
    return Call(recipient.removeprefix("functions."), arguments)
