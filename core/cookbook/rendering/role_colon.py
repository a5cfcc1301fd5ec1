"""Plain text for models without a chat format: "User: ...", blank line, "Assistant: ..."."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RendererError
from ..types import Message
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain, only_text
from .stream import Parsed

_STOP = "\n\nUser:"


class RoleColon(Renderer):
    """A reply ends where the next "User:" begins: its stop is the header of the user message after it.

    Content and stop are encoded as one text, since that is how a model says them: the last mark of a
    sentence and the blank line after it are one token in many vocabularies. Content is parsed stripped.
    """

    exceptions = {
        "reasoning left out": "it has no form for reasoning",
        "white space": "a blank before the content and a blank line after it are the format's",
        "trimmed when read": "content is written as it is and read without its white space",
    }

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if tools:
            raise RendererError("RoleColon has no form for tools; choose another renderer=...")
        out.bos()
        spoken = False  # the header of the message to come stands there, as the stop of the reply before it
        for i, message in enumerate(messages):
            reply = message.role == "assistant"
            out.begin(i, reply=reply)
            if not spoken:
                out.border()
                out.text(f"{message.role.capitalize()}:", "header")
            out.border()
            out.text(f" {only_text(message, 'RoleColon')}")
            spoken = reply and (i + 1 == len(messages) or messages[i + 1].role == "user")
            out.stop(_STOP if spoken else "\n\n")
        if prompt:
            out.begin(len(messages), reply=True)
            out.border()
            out.header("Assistant:")

    def get_stop_sequences(self) -> list[str]:
        return [_STOP]

    def parse_response(
        self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None, tools: Tools = None
    ) -> Parsed:
        text, stop, rest = self.tokenizer.decode(token_ids).partition(_STOP)
        problem = f"{len(rest)} characters after the stop" if rest else ""
        return Parsed(Message(role="assistant", content=text.strip()), bool(stop), problem)

    def _check_trained(self, plains: Sequence[Plain], i: int) -> None:
        where = f"RoleColon: messages[{i}], a trained assistant message,"
        if _STOP in plains[i].text:
            raise RendererError(
                f"{where} contains the stop {_STOP!r}, where sampling would end; leave the conversation "
                "out, or choose another renderer=..."
            )
        after = plains[i + 1].role if i + 1 < len(plains) else "user"
        if after != "user":
            raise RendererError(
                f"{where} ends with the stop {_STOP!r}, which no {after!r} message can follow; put a 'user' "
                "message between them, leave the conversation out, or choose another renderer=..."
            )
