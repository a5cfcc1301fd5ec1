"""Plain text for models without a chat format: "User: ...", blank line, "Assistant: ..."."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Message
from .base import Parsed, Renderer

_STOP = "\n\nUser:"


class RoleColon(Renderer):
    """A reply ends where the next "User:" begins."""

    def _opening(self, messages: Sequence[Message]) -> list[int]:
        return list(self.tokenizer.prefix_ids)

    def _message(self, message: Message) -> list[int]:
        return self.tokenizer.encode(f"{message['role'].capitalize()}:") + self._content(message)

    def _content(self, message: Message) -> list[int]:
        return self.tokenizer.encode(f" {message['content']}\n\n")

    def _reply_header(self) -> list[int]:
        return self.tokenizer.encode("Assistant:")

    def get_stop_sequences(self) -> list[str]:
        return [_STOP]

    def parse_response(self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None) -> Parsed:
        text, stop, _ = self.tokenizer.decode(token_ids).partition(_STOP)
        return Parsed(Message(role="assistant", content=text.strip()), bool(stop))

    def bridge(
        self, token_ids: Sequence[int], stopped: bool, messages: Sequence[Message]
    ) -> list[int] | None:
        messages = list(messages)
        if not stopped:
            ids = self.tokenizer.encode("\n\n")
        elif messages and messages[0]["role"] == "user":
            ids = self._content(messages.pop(0))  # the stop that was sampled is this message's header
        else:
            return None
        for message in messages:
            ids += self._message(message)
        return ids + self._reply_header()
