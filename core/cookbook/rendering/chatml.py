"""ChatML: <|im_start|>role, newline, content, <|im_end|>, newline."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RendererError
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain, only_text
from .tokenizers import Tokenizer


class ChatML(Renderer):
    """default_system: the system message that the format puts first where a conversation has none."""

    exceptions = {"reasoning left out": "it has no form for reasoning"}

    def __init__(
        self, tokenizer: Tokenizer, *, default_system: str | None = None, hf_parity: bool = False
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.default_system = default_system
        self._stops = [tokenizer.control("<|im_end|>")]
        tokenizer.control("<|im_start|>")

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if tools and not self.hf_parity:  # the template passes over them
            raise RendererError("ChatML has no form for tools; choose another renderer=...")
        between = ""
        if self.default_system is not None and not (messages and messages[0].role == "system"):
            out.header(f"<|im_start|>system\n{self.default_system}<|im_end|>")
            between = "\n"
        for i, message in enumerate(messages):
            out.begin(i, reply=message.role == "assistant")
            out.header(f"{between}<|im_start|>")
            out.text(message.role, "header")
            out.header("\n")
            out.text(message.text if self.hf_parity else only_text(message, "ChatML"))
            out.stop("<|im_end|>")
            between = "\n"
        if prompt:
            out.begin(len(messages), reply=True)
            out.header(f"{between}<|im_start|>assistant\n")

    def get_stop_sequences(self) -> list[int]:
        return self._stops
