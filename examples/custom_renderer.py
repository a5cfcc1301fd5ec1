"""A chat format: Alpaca's (Taori et al. 2023), with the end-of-text token to end a reply.

    python custom_renderer.py                        # a conversation as tokens of one byte each
    python custom_renderer.py SmolLM2-135M-Instruct  # as tokens of a model (`cookbook local setup`)

Renderers are found by id, so a run takes it from a plugin, `renderer=NAMESPACE/alpaca`:

    @hookimpl
    def register_renderers(register):
        register("alpaca", "custom_renderer:Alpaca", "Alpaca's format, for models without one of their own")
"""

from __future__ import annotations

import sys

from cookbook.errors import RendererError
from cookbook.rendering import Renderer
from cookbook.rendering.messages import only_text

HEADERS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}


class Alpaca(Renderer):
    """end: the control token that ends a reply."""

    exceptions = {"reasoning left out": "it has no form for reasoning"}

    def __init__(self, tokenizer, *, end: str = "<|endoftext|>", hf_parity: bool = False):
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.end, self._stops = end, [tokenizer.control(end)]

    def _write(self, out, messages, tools, prompt):
        if tools:
            raise RendererError("Alpaca has no form for tools; choose another renderer=...")
        for i, message in enumerate(messages):
            if message.role not in HEADERS:
                raise RendererError(f"Alpaca has no form for the role {message.role!r}")
            out.begin(i, reply=message.role == "assistant")
            out.header(("\n\n" if i else "") + HEADERS[message.role])
            out.text(only_text(message, "Alpaca"))  # somebody's words: "### Response:" in them is only text
            if message.role == "assistant":
                out.stop(self.end)
        if prompt:
            out.begin(len(messages), reply=True)
            out.header("\n\n" + HEADERS["assistant"])

    def get_stop_sequences(self):
        return self._stops


def main(model: str = "") -> None:
    """Prints a conversation, what is trained in brackets; and a reply that was read back."""
    from cookbook.testing import byte_tokenizer

    if model:
        from cookbook.rendering import load_tokenizer
        from cookbook_plugin_local.models import find_model
    renderer = Alpaca(load_tokenizer(find_model(model)) if model else byte_tokenizer())
    messages = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
    example = renderer.build_supervised_example(messages)
    pairs = list(zip(example.token_ids, example.weights, strict=True))
    before = renderer.tokenizer.decode([id for id, weight in pairs if not weight])
    trained = [id for id, weight in pairs if weight]
    print(f"{before}[{renderer.tokenizer.decode(trained)}]")
    print(renderer.parse_response(trained).message)


if __name__ == "__main__":
    main(*sys.argv[1:])
