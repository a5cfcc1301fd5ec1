"""Kimi K2, K2.5 and K2.6 of Moonshot AI: control tokens around each message, calls that carry ids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

from ..errors import RendererError
from .base import Tools
from .draft import Draft
from .images import Image
from .messages import Plain
from .reading import Framing, Tagged, Tags, after_last
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, openai_tool, typescript
from .tools.section_calls import Section

_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
_CALLS = Section(
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
_ID = re.compile(r"\s*(?:functions\.)?([^\s:]+):\d+\s*")


class Kimi(Tagged):
    """version: whose format. thinking: "sampled", the model opens its reasoning itself (K2); "on", the prompt
    opens it; "off", the prompt gives an empty one. preserve_thinking: earlier reasoning stays in history."""

    _framing = Framing("", "", "", "")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        version: Literal["k2", "k25"] = "k2",
        thinking: Literal["sampled", "on", "off"] = "sampled",
        preserve_thinking: bool = False,
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.version, self.thinking, self.preserve_thinking = version, thinking, preserve_thinking
        self.exceptions = {"reasoning": "the prompt gives an empty one"} if thinking == "off" else {}
        self._tags = Tags.of(
            tokenizer, "<think>", "</think>", _CALLS.call, _CALLS.end_call, _CALLS.begin, _CALLS.end
        )
        self._header, self._end = tokenizer.control("<|im_middle|>"), tokenizer.control("<|im_end|>")

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if tools:
            out.header("<|im_system|>tool_declare<|im_middle|>")
            out.text(self._declaration(tools), "header")
            out.header("<|im_end|>")
        if not messages or messages[0].role != "system":
            out.header(f"<|im_system|>system<|im_middle|>{_SYSTEM}<|im_end|>")
        answered = self._last_answer(messages, prompt)
        calls = 0
        for i, message in enumerate(messages):
            out.begin(i, reply=message.role == "assistant")
            side = message.role if message.role in ("user", "assistant") else "system"
            out.header(f"<|im_{side}|>")
            out.text(message.name or message.role, "header")
            out.header("<|im_middle|>")
            if message.role == "assistant":
                self._write_reply(out, message, self.preserve_thinking or i > answered, calls)
                calls += len(message.calls)
            else:
                if message.role == "tool":
                    out.header("## Return of ")
                    out.text(message.call_id or "", "header")
                    out.header("\n")
                self._write_parts(out, message)
            out.stop("<|im_end|>")
        if prompt:
            out.begin(len(messages), reply=True)
            out.header("<|im_assistant|>assistant<|im_middle|>")
            out.header({"sampled": "", "on": "<think>", "off": "<think></think>"}[self.thinking])

    def _declaration(self, tools: Tools) -> str:
        """K2's tokenizer sorts the keys of the declarations and writes them without spaces."""
        declared = [openai_tool(tool) for tool in tools or ()]
        if self.version == "k2":
            return json.dumps(declared, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return typescript.kimi(declared)

    def _last_answer(self, messages: Sequence[Plain], prompt: bool) -> int:
        """The place of the last reply without calls: up to it, reasoning is left out. A target keeps the
        reasoning it is trained on; K2's template drops it there too."""
        history = messages if prompt or (self.hf_parity and self.version == "k2") else messages[:-1]
        answers = [
            i for i, message in enumerate(history) if message.role == "assistant" and not message.calls
        ]
        return max(answers, default=-1)

    def _write_reply(self, out: Draft, message: Plain, reasoned: bool, calls: int) -> None:
        thinking = (message.thinking or "") if reasoned else ""
        if self.thinking == "off" and not thinking:
            out.header("<think></think>")
        else:
            (out.own if self.thinking == "sampled" else out.header)("<think>")
            out.text(thinking)
            out.own("</think>")
        self._write_parts(out, message)
        if message.calls or message.broken:
            named = [
                (call.id or f"functions.{call.name}:{calls + n}") for n, call in enumerate(message.calls)
            ]
            written = [(name, call.arguments) for name, call in zip(named, message.calls, strict=True)]
            _CALLS.write(out, written, message.broken)

    def _write_parts(self, out: Draft, message: Plain) -> None:
        for part in message.parts:
            if isinstance(part, Image):
                raise RendererError(
                    "Kimi's images aren't supported here; leave them out, or choose a Qwen VL model"
                )
            out.text(part)

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        """An id says the function's name: functions.NAME:INDEX."""
        read = _CALLS.read(self.tokenizer, token_ids)
        if isinstance(read, Unparsed):
            return read
        named = _ID.fullmatch(read[0])
        if named is None:
            reason = f"the id {read[0][:60]!r} isn't functions.NAME:INDEX"
            return Unparsed(self.tokenizer.decode(token_ids), reason)
        return Call(named.group(1), read[1], read[0])

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Reasoning is left out once an answer was given, whoever speaks next; an empty one stays."""
        return (
            not self.preserve_thinking
            and _reasons(token_ids, self._tags)
            and self._tags.call not in after_last(token_ids, self._header)
        )


def _reasons(token_ids: Sequence[int], tags: Tags) -> bool:
    """Whether any reasoning isn't empty."""
    pairs = zip(token_ids, [*token_ids[1:], None], strict=True)
    return any(id == tags.think and after != tags.end_think for id, after in pairs)
