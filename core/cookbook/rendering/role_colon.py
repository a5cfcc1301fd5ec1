"""Plain text for models without a chat format: "User: ...", blank line, "Assistant: ..."."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Message
from .base import Parsed, Renderer

_STOP = "\n\nUser:"


class RoleColon(Renderer):
    """A reply ends where the next "User:" begins: its stop is the header of the user message after it.

    Content and stop are encoded as one text, since that is how a model says them: the last mark of a
    sentence and the blank line after it are one token in many vocabularies. Content is parsed stripped.
    """

    def _opening(self, messages: Sequence[Message]) -> list[int]:
        return list(self.tokenizer.prefix_ids)

    def _message(self, message: Message, before: str | None) -> list[int]:
        content = self.tokenizer.encode(f" {message['content']}\n\n")
        if before == "assistant" and message["role"] == "user":
            return content  # the reply's stop is this message's header
        return self.tokenizer.encode(f"{message['role'].capitalize()}:") + content

    def _reply_header(self, before: str | None) -> list[int]:
        return self.tokenizer.encode("Assistant:")

    def _reply(self, content: str, after: str | None) -> list[int]:
        return self.tokenizer.encode(f" {content}{_ending(after)}")

    def _end(self, after: str | None) -> list[int]:
        return self.tokenizer.encode(_ending(after))

    def get_stop_sequences(self) -> list[str]:
        return [_STOP]

    def parse_response(self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None) -> Parsed:
        text, stop, _ = self.tokenizer.decode(token_ids).partition(_STOP)
        return Parsed(Message(role="assistant", content=text.strip()), bool(stop))


def _ending(after: str | None) -> str:
    """A blank line alone where another than the user speaks next."""
    return _STOP if after in ("user", None) else "\n\n"
