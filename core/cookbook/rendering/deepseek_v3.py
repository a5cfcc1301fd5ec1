"""DeepSeek V3.1: one system prompt, a control token for who speaks, replies that go on after a tool's output
without a header."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RendererError
from .base import Tools
from .draft import Draft
from .messages import Plain, only_text
from .reading import Framing, Tagged, Tags
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, function_of, to_json
from .tools.section_calls import Section

_CALLS = Section(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
)
_AFTER_A_TOOL = {"reasoning after a tool": "a reply goes on after a tool's output, in which none is opened"}
_TOOLS = "\n\n## Tools\nYou have access to the following tools:\n"
_RULES = (
    "\n\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
    f"{_CALLS.begin}{_CALLS.call}tool_call_name{_CALLS.separator}tool_call_arguments{_CALLS.end_call}{_CALLS.end}"
    "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces"
)


class DeepSeekV3(Tagged):
    """thinking: the prompt opens a reasoning; else it gives a closed one. Earlier reasoning is never kept.

    The template passes over tools; they are declared as the model card tells, unless `hf_parity`.
    """

    _framing = Framing("", "", "", "")

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool = False, hf_parity: bool = False) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.thinking = thinking
        self.exceptions = {
            "inline reasoning": "a text that begins with <think>...</think> has its reasoning in it",
            **(_AFTER_A_TOOL if thinking else {"reasoning left out": "the prompt closes an empty one"}),
        }
        self._tags = Tags.of(
            tokenizer, "<think>", "</think>", _CALLS.call, _CALLS.end_call, _CALLS.begin, _CALLS.end
        )
        self._header, self._end = (
            tokenizer.control("<｜Assistant｜>"),
            tokenizer.control("<｜end▁of▁sentence｜>"),
        )

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        out.bos()
        self._write_system(out, messages, tools)
        before = ""  # the role of the message before, less system messages
        for i, message in enumerate(messages):
            if message.role == "system":
                continue
            out.begin(i, reply=message.role == "assistant")
            if message.role == "user":
                out.header("<｜User｜>")
                out.text(only_text(message, "DeepSeekV3"))
            elif message.role == "tool":
                out.header("<｜tool▁output▁begin｜>")
                out.text(only_text(message, "DeepSeekV3"))
                out.stop("<｜tool▁output▁end｜>")
            elif message.role == "assistant":
                target = i + 1 == len(messages) and not prompt and not self.hf_parity
                self._write_reply(out, message, before, target and self.thinking)
            else:
                raise RendererError(f"messages[{i}]: DeepSeekV3 has no form for the role {message.role!r}")
            before = message.role
        if prompt and before == "user":
            out.begin(len(messages), reply=True)
            out.header("<｜Assistant｜><think>" if self.thinking else "<｜Assistant｜></think>")

    def _write_system(self, out: Draft, messages: Sequence[Plain], tools: Tools) -> None:
        """All system messages, one text at the start."""
        first = True
        for i, message in enumerate(messages):
            if message.role == "system":
                out.begin(i)
                out.own("" if first else "\n\n")
                out.text(only_text(message, "DeepSeekV3"))
                first = False
        if tools and not self.hf_parity:
            out.begin(None)
            out.own(_TOOLS)
            for tool in tools:
                function = function_of(tool)
                out.own("\n### ")
                out.text(function["name"])
                out.own("\nDescription: ")
                out.text(function.get("description", ""))
                out.own("\n\nParameters: ")
                out.text(to_json(function.get("parameters", {})))
                out.own("\n")
            out.own(_RULES.removeprefix("\n"))
        out.begin(None)

    def _write_reply(self, out: Draft, message: Plain, before: str, reasoned: bool) -> None:
        """reasoned: a target, which keeps its reasoning where the prompt opens one."""
        thinking, text = message.thinking, only_text(message, "DeepSeekV3", calls=True)
        inline = (
            before != "tool" and not message.calls if self.hf_parity else text.lstrip().startswith("<think>")
        )
        if inline and "</think>" in text:
            opening, _, text = text.partition("</think>")
            thinking = thinking or opening.replace("<think>", "", 1)
        if before == "user" and reasoned:
            out.header("<｜Assistant｜><think>")
            out.text(thinking or "")
            out.own("</think>")
        elif before == "user":
            out.header("<｜Assistant｜></think>")
        out.text(text)
        if message.calls or message.broken:
            _CALLS.write(out, [(call.name, call.arguments) for call in message.calls], message.broken)
        out.stop("<｜end▁of▁sentence｜>")

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        read = _CALLS.read(self.tokenizer, token_ids)
        return read if isinstance(read, Unparsed) else Call(*read)

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Reasoning is left out as soon as anything follows, and a system message goes to the start."""
        return self._tags.think in token_ids or any(message.role == "system" for message in messages)
