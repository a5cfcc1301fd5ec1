"""ChatML: <|im_start|>role, newline, content, <|im_end|>, newline."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RendererError
from ..types import Message
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain, only_text
from .reading import after_last, reply, write_broken
from .tokenizers import Tokenizer
from .tools import json_calls


class ChatML(Renderer):
    """default_system: the system message that the format puts first where a conversation has none.
    tools: whether it has a form for tools, which no template of ChatML itself has: they are declared and
    called in the words of Hermes and Qwen3, at the end of the system message and in JSON between <tool_call>
    tags. The tags are text to these vocabularies, so text that looks like a call is one, where tools are
    declared. Without any, and with hf_parity, all is as without this option.
    """

    exceptions = {"reasoning left out": "it has no form for reasoning"}

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        default_system: str | None = None,
        tools: bool = False,
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.default_system, self.tools = default_system, tools and not hf_parity
        self._stops = [tokenizer.control("<|im_end|>")]
        self._header = tokenizer.control("<|im_start|>")
        if self.tools:
            self.exceptions = {
                **self.exceptions,
                "tags in text": "the tags of calls are text, and are read where tools are declared",
                "tags in arguments": "a call ends at the first tag that closes one",
            }

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if tools and not self.tools and not self.hf_parity:  # the template passes over them
            raise RendererError("ChatML has no form for tools; renderer=core/chatml_tools has one")
        tools = tools if self.tools else None
        first = messages[0] if messages and messages[0].role == "system" else None
        between = ""
        if first is None and (tools or self.default_system is not None):
            out.header(f"<|im_start|>system\n{self.default_system or ''}")
            self._declare(out, tools, self.default_system)
            out.header("<|im_end|>")
            between = "\n"
        for i, message in enumerate(messages):
            out.begin(i, reply=message.role == "assistant")
            out.header(f"{between}<|im_start|>")
            out.text(message.role, "header")
            out.header("\n")
            text = message.text if self.hf_parity else only_text(message, "ChatML", calls=self.tools)
            out.text(text)
            if message is first:
                self._declare(out, tools, text)
            if self.tools:
                _write_calls(out, message, text)
            out.stop("<|im_end|>")
            between = "\n"
        if prompt:
            out.begin(len(messages), reply=True)
            out.header(f"{between}<|im_start|>assistant\n")

    def _declare(self, out: Draft, tools: Tools, text: str | None) -> None:
        """At the end of a system message that says this text."""
        if tools:
            out.own("\n\n" if text else "")
            json_calls.declare(out, tools)

    def get_stop_sequences(self) -> list[int]:
        return self._stops

    def _read(
        self, token_ids: list[int], prompt_ids: Sequence[int], stop: int | None, tools: Tools
    ) -> tuple[Message, str]:
        if not (tools and self.tools):
            return super()._read(token_ids, prompt_ids, stop, tools)
        begun = self.tokenizer.decode(after_last(prompt_ids, self._header)) if prompt_ids else ""
        begun = begun[begun.rfind("<tool_call>") :] if "<tool_call>" in begun else ""
        begun = "" if "</tool_call>" in begun else begun
        content, calls, unparsed = json_calls.read_all(begun + self.tokenizer.decode(token_ids))
        return reply(content, "", calls, unparsed), unparsed[0].reason if unparsed else ""


def _write_calls(out: Draft, message: Plain, text: str) -> None:
    for n, call in enumerate(message.calls):
        out.own("\n" if text or n else "")
        json_calls.write(out, call)
    write_broken(out, message, "\n" if text or message.calls else "")
