"""ChatML: <|im_start|>role, newline, content, <|im_end|>, newline."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Message
from .base import Parsed, Renderer
from .tokenizers import Tokenizer


class ChatML(Renderer):
    """default_system: the system message that the format puts first where a conversation has none."""

    def __init__(self, tokenizer: Tokenizer, *, default_system: str | None = None) -> None:
        super().__init__(tokenizer)
        self.default_system = default_system
        self.start, self.end = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")
        self.newline = tokenizer.encode("\n")

    def _opening(self, messages: Sequence[Message]) -> list[int]:
        has_system = bool(messages) and messages[0]["role"] == "system"
        if self.default_system is None or has_system:
            return []
        system = Message(role="system", content=self.default_system)
        return self._message(system, None) + self.newline

    def _message(self, message: Message, before: str | None) -> list[int]:
        text = f"{message['role']}\n{message['content']}"
        return [*self._start(before), *self.tokenizer.encode(text), self.end]

    def _reply_header(self, before: str | None) -> list[int]:
        return [*self._start(before), *self.tokenizer.encode("assistant\n")]

    def _start(self, before: str | None) -> list[int]:
        return [self.start] if before is None else [*self.newline, self.start]

    def _reply(self, content: str, after: str | None) -> list[int]:
        return [*self.tokenizer.encode(content), self.end]

    def _end(self, after: str | None) -> list[int]:
        return [self.end]

    def get_stop_sequences(self) -> list[int]:
        return [self.end]

    def parse_response(self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None) -> Parsed:
        ids = list(token_ids)
        stopped = self.end in ids
        text = self.tokenizer.decode(ids[: ids.index(self.end)] if stopped else ids)
        return Parsed(Message(role="assistant", content=text), stopped)
