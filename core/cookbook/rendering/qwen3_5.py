"""Qwen3.5, 3.6 and 3.8: ChatML with reasoning that the prompt opens, trimmed content, calls in XML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RendererError
from .base import Tools
from .draft import Draft
from .messages import Plain, inline_thinking, last_query, only_text
from .qwen3 import write_parts
from .reading import Framing, Tagged, Tags, write_broken
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, openai_tool, to_json, xml_calls

_EFFORTS = {
    "xhigh": "Reasoning effort is set to xhigh. Please think carefully through the task, validate key "
    "assumptions, consider plausible alternatives, and prioritize correctness, consistency, and clarity in "
    "the final answer.",
    "medium": "",
    "low": "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the "
    "conclusion without unnecessary elaboration.",
}
_SPLIT = {"empty reasoning split": "the prompt ends with the first newline of it"}
_EMPTY = "<think>\n\n</think>\n\n"


class Qwen35(Tagged):
    """version: whose template. thinking: False, the prompt closes an empty reasoning.
    preserve_thinking: earlier reasoning stays when a user has spoken again.
    effort: how much Qwen3.8 is asked to reason; only where `thinking`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        version: Literal["3.5", "3.6", "3.8"] = "3.5",
        thinking: bool = True,
        preserve_thinking: bool = False,
        effort: Literal["xhigh", "medium", "low"] = "xhigh",
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.version, self.thinking, self.preserve_thinking = version, thinking, preserve_thinking
        self._instructions = _EFFORTS[effort] if version == "3.8" and thinking else ""
        self._tags = Tags.of(tokenizer, "<think>", "</think>", "<tool_call>", "</tool_call>")
        self._header, self._end = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")
        self._framing = Framing(before_call="\n\n")
        self.exceptions = {
            "white space": "it trims content and reasoning",
            "inline reasoning": "a text that begins with <think>...</think> has its reasoning in it",
            **xml_calls.EXCEPTIONS,
            **(_SPLIT if thinking else {"reasoning": "the prompt gives an empty one"}),
        }

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        asked = last_query([(message.role, message.text.strip()) for message in messages], self.hf_parity)
        if asked is None and self.hf_parity:
            raise RendererError("Qwen3.5's template has no form for a conversation without a user's message")
        nobody = len(messages) - 1 if self.hf_parity else -1  # the template then leaves all reasoning out
        query = nobody if asked is None else asked
        first = self._write_system(out, messages, tools)
        between = "\n" if out.pieces else ""
        for i, message in enumerate(messages[first:], first):
            out.begin(i, reply=message.role == "assistant")
            if message.role == "assistant":
                out.header(f"{between}<|im_start|>assistant\n")
                self._write_reply(out, message, self.preserve_thinking or i > query)
                out.stop("<|im_end|>")
            elif message.role == "tool":
                grouped = i > 0 and messages[i - 1].role == "tool"
                out.header("" if grouped or i == 0 else f"{between}<|im_start|>user")
                out.header("\n<tool_response>\n")
                self._write_parts(out, message)
                out.stop("\n</tool_response>")
                if i + 1 == len(messages) or messages[i + 1].role != "tool":
                    out.stop("<|im_end|>")
            elif message.role == "user" or (message.role == "system" and not self.hf_parity):
                out.header(f"{between}<|im_start|>{message.role}\n")
                self._write_parts(out, message)
                out.stop("<|im_end|>")
            else:
                raise RendererError(
                    f"messages[{i}]: Qwen3.5's template has no form for {message.role!r} here"
                )
            between = "\n"
        if prompt:
            out.begin(len(messages), reply=True)
            out.header(f"{between}<|im_start|>assistant\n")
            out.header("<think>\n" if self.thinking else _EMPTY)

    def _write_system(self, out: Draft, messages: Sequence[Plain], tools: Tools) -> int:
        """The system message, with what is declared in it; returns how many messages it contains."""
        has_system = bool(messages) and messages[0].role == "system"
        content = only_text(messages[0], "Qwen3.5's system message").strip() if has_system else ""
        wanted = content or self._instructions or (has_system and self.version != "3.8")
        if not (tools or wanted):
            return int(has_system)
        out.begin(0 if has_system else None)
        out.header("<|im_start|>system\n")
        out.own(self._instructions)
        if self._instructions and (tools or content):
            out.own("\n\n")
        if tools:
            out.own(f"{xml_calls.TOOLS}<tools>")
            for tool in tools:
                out.own("\n")
                out.text(to_json(openai_tool(tool)))
            out.own(f"\n</tools>{xml_calls.RULES}")
            out.own("\n\n" if content else "")
        out.text(content)
        out.stop("<|im_end|>")
        return int(has_system)

    def _write_reply(self, out: Draft, message: Plain, reasoned: bool) -> None:
        """reasoned: its reasoning stands, be it an empty one."""
        text = only_text(message, "a reply of Qwen3.5", calls=True)
        trimmed = Plain(message.role, [text.strip()], message.thinking)
        if self.version == "3.8" and self.hf_parity:
            thinking, text = trimmed.thinking, trimmed.text
        else:
            thinking, text = inline_thinking(trimmed, self.hf_parity)
        thinking = (thinking or "").strip()
        if reasoned and not (thinking or self.thinking):
            out.header(_EMPTY)  # the prompt gives it
        elif reasoned:
            out.header("<think>\n")
            out.text(thinking)
            out.own("\n</think>\n\n")
        out.text(text)
        for n, call in enumerate(message.calls):
            out.own("\n" if n else "\n\n" if text.strip() else "")
            xml_calls.write(out, call, json_values=self.version != "3.5")
        write_broken(out, message, "\n" if message.calls else "\n\n" if text.strip() else "")

    def _write_parts(self, out: Draft, message: Plain) -> None:
        """Its parts, without the white space around the whole."""
        parts = list(message.parts)
        if parts and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip()
        if parts and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()
        write_parts(out, parts)

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        return xml_calls.read(self.tokenizer.decode(token_ids), tools)

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Reasoning, also an empty one, is left out once a user has spoken."""
        spoken = any(message.role == "user" for message in messages)
        return spoken and not self.preserve_thinking and self._tags.think in token_ids
