"""Qwen3, its instruct and its vision models: ChatML with reasoning in <think> and calls in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RendererError
from .base import Tools
from .draft import Draft
from .images import Image, qwen_image_tokens
from .messages import Plain, inline_thinking, last_query, only_text
from .reading import Tagged, Tags, after_last, write_broken
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, json_calls


class Qwen3(Tagged):
    """thinking: "on", the model reasons before it answers, and what it reasoned is left out once a user has
    spoken again; "opened", so too, and the prompt opens its reasoning; "off", the prompt gives an empty one;
    "none", a model that doesn't reason.
    vision: whether messages may have images."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        thinking: Literal["on", "opened", "off", "none"] = "on",
        vision: bool = False,
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.thinking, self.vision = thinking, vision
        self.exceptions = _exceptions(thinking)
        self._tags = Tags.of(tokenizer, "<think>", "</think>", "<tool_call>", "</tool_call>")
        self._header, self._end = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        asked = last_query([(message.role, message.text) for message in messages], self.hf_parity)
        nobody = len(messages) - 1 if self.hf_parity else -1  # the template then leaves all reasoning out
        query = nobody if asked is None else asked
        between = ""
        first = 0
        if tools:
            first = self._write_tools(out, messages, tools)
            between = "\n"
        for i, message in enumerate(messages[first:], first):
            out.begin(i, reply=message.role == "assistant")
            if message.role == "assistant":
                out.header(f"{between}<|im_start|>assistant\n")
                self._write_reply(out, message, i > query, i + 1 == len(messages))
                out.stop("<|im_end|>")
            elif message.role == "tool":
                grouped = i > 0 and messages[i - 1].role == "tool"
                out.header("" if grouped else f"{between}<|im_start|>user")
                out.header("\n<tool_response>\n")
                self._write_parts(out, message)
                out.stop("\n</tool_response>")
                if i + 1 == len(messages) or messages[i + 1].role != "tool":
                    out.stop("<|im_end|>")
            elif self.hf_parity and self.vision and message.role == "system" and i:
                continue  # the template of the vision models passes over it
            elif message.role in ("user", "system"):
                out.header(f"{between}<|im_start|>{message.role}\n")
                self._write_parts(out, message)
                out.stop("<|im_end|>")
            else:
                raise RendererError(f"Qwen3 has no form for the role {message.role!r}")
            between = "\n"
        if prompt:
            out.begin(len(messages), reply=True)
            out.header(f"{between}<|im_start|>assistant\n")
            out.header({"opened": "<think>\n", "off": "<think>\n\n</think>\n\n"}.get(self.thinking, ""))

    def _write_tools(self, out: Draft, messages: Sequence[Plain], tools: Tools) -> int:
        """The system message that declares them; returns how many messages it contains."""
        has_system = bool(messages) and messages[0].role == "system"
        out.begin(0 if has_system else None)
        out.header("<|im_start|>system\n")
        if has_system:
            self._write_parts(out, messages[0])
            out.own("\n\n")
        json_calls.declare(out, tools or ())
        out.stop("<|im_end|>")
        return int(has_system)

    def _write_reply(self, out: Draft, message: Plain, current: bool, last: bool) -> None:
        """current: no user has spoken after it, so that its reasoning stands."""
        thinking, text = message.thinking, only_text(message, "a reply of Qwen3", calls=True)
        if self.thinking != "none":
            thinking, text = inline_thinking(message, self.hf_parity)
        if self.thinking != "none" and current and (last or thinking):
            self._write_thinking(out, (thinking or "").strip("\n"))
            out.text(text.lstrip("\n"))
        else:
            out.text(text)
        for n, call in enumerate(message.calls):
            if text or n:
                out.own("\n")
            json_calls.write(out, call)
        write_broken(out, message, "\n" if text or message.calls else "")

    def _write_thinking(self, out: Draft, thinking: str) -> None:
        if self.thinking == "off" and not thinking:
            out.header("<think>\n\n</think>\n\n")  # the prompt gives it
            return
        (out.header if self.thinking == "opened" else out.own)("<think>\n")
        out.text(thinking)
        out.own("\n</think>\n\n")

    def _write_parts(self, out: Draft, message: Plain) -> None:
        if not self.vision:
            only_text(message, "Qwen3")
        write_parts(out, message.parts)

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        return json_calls.read(self.tokenizer.decode(token_ids))

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Reasoning is left out once a user has spoken, and an empty one as soon as anything follows."""
        spoken = any(message.role == "user" for message in messages)
        return self._tags.think in token_ids and (spoken or self._thought_nothing(token_ids))

    def _thought_nothing(self, token_ids: Sequence[int]) -> bool:
        """Whether the last reply has a reasoning in which nothing stands."""
        ids = after_last(token_ids, self._header)
        if self._tags.think not in ids:
            return False
        thought = ids[ids.index(self._tags.think) + 1 :]
        end = thought.index(self._tags.end_think) if self._tags.end_think in thought else len(thought)
        return not self.tokenizer.decode(thought[:end]).strip("\n")


def write_parts(out: Draft, parts: Sequence[str | Image]) -> None:
    """Texts, and images as all vision models of Qwen have them since Qwen3-VL."""
    for part in parts:
        if isinstance(part, Image):
            out.own("<|vision_start|>")
            out.image(part, qwen_image_tokens(part))
            out.own("<|vision_end|>")
        else:
            out.text(part)


def _exceptions(thinking: str) -> dict[str, str]:
    if thinking == "none":
        return {"reasoning left out": "it has no form for reasoning"}
    common = {
        "newlines": "those around reasoning, and before the text after it, are the format's",
        "inline reasoning": "a text that begins with <think>...</think> has its reasoning in it",
    }
    return common | {
        "off": {"reasoning": "the prompt gives an empty one"},
        "opened": {"empty reasoning split": "the prompt ends with the first newline of it"},
    }.get(thinking, {})
