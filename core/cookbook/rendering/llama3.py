"""Llama 3: a header of control tokens, a blank line, the trimmed content, <|eot_id|>."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RendererError
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain, only_text
from .tokenizers import Tokenizer


class Llama3(Renderer):
    """The chat format of Llama 3 Instruct; that of 3.1 and later less its date and its tools."""

    exceptions = {"reasoning left out": "it has no form for reasoning", "white space": "it trims content"}

    def __init__(self, tokenizer: Tokenizer, *, hf_parity: bool = False) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self._stops = [tokenizer.control("<|eot_id|>")]
        tokenizer.control("<|start_header_id|>")

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if tools and not self.hf_parity:  # the template passes over them
            raise RendererError("Llama3 has no form for tools; choose another renderer=...")
        out.bos()
        for i, message in enumerate(messages):
            out.begin(i, reply=message.role == "assistant")
            out.header("<|start_header_id|>")
            out.text(message.role, "header")
            out.header("<|end_header_id|>\n\n")
            out.text((message.text if self.hf_parity else only_text(message, "Llama3")).strip())
            out.stop("<|eot_id|>")
        if prompt:
            out.begin(len(messages), reply=True)
            out.header("<|start_header_id|>assistant<|end_header_id|>\n\n")

    def get_stop_sequences(self) -> list[int]:
        return self._stops
