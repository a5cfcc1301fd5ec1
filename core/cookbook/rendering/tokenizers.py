"""The tokenizer as renderers see it: text is always literal, control tokens are asked for by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RendererError

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A `tokenizers.Tokenizer` that never turns text into a control token.

    prefix_ids: what the tokenizer itself puts before a text (the BOS of Llama; nothing for most).
    """

    def __init__(self, backend: tokenizers.Tokenizer, name: str) -> None:
        self.name = name
        self.prefix_ids: list[int] = backend.encode("", add_special_tokens=True).ids
        self._backend = backend
        self._byte_level = backend.decoder is not None and b'"ByteLevel"' in backend.decoder.__getstate__()
        added = backend.get_added_tokens_decoder().items()
        self._added_bytes = {id: 0 if token.special else len(token.content.encode()) for id, token in added}
        self._be_literal()

    def _be_literal(self) -> None:
        """ "<|im_end|>" in a text is encoded as those characters. The flag isn't part of a pickle."""
        self._backend.encode_special_tokens = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._be_literal()

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of literal text, with nothing added."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text, control tokens included; bytes that aren't whole characters become U+FFFD."""
        return self._backend.decode(list(token_ids), skip_special_tokens=False)

    def utf8_length(self, token_ids: Sequence[int]) -> int:
        """How many bytes of text these tokens stand for, UTF-8; control tokens count none.

        Exact for byte-level vocabularies, also where a character is split and only part of it is here:
        the lengths of parts add up. For others it is the length of `decode`.
        """
        if not self._byte_level:
            return len(self.decode([id for id in token_ids if self._added_bytes.get(id) != 0]).encode())
        return sum(
            # a byte-level token is spelt with one letter a byte; an id beyond the vocabulary has no text
            self._added_bytes[id] if id in self._added_bytes else len(self._backend.id_to_token(id) or "")
            for id in token_ids
        )

    def control(self, token: str) -> int:
        """The id of a control token. Raises `RendererError` where the vocabulary lacks it."""
        id = self._backend.token_to_id(token)
        if id is None:
            raise RendererError(
                f"the tokenizer of {self.name!r} has no control token {token!r}: this chat format isn't "
                "its own; choose another with renderer=..., `cookbook list renderer` shows them"
            )
        return id


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The tokenizer of a folder that holds tokenizer.json, or of a model on the Hugging Face hub.

    Raises `RendererError` with one line when there is none.
    """
    import tokenizers

    file = Path(model) / "tokenizer.json"
    backend: Any
    try:
        if file.is_file():
            backend = tokenizers.Tokenizer.from_file(str(file))
        else:
            backend = tokenizers.Tokenizer.from_pretrained(str(model))
    except Exception as e:  # the library raises bare Exceptions
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise RendererError(
            f"no tokenizer for {str(model)!r}: {reason}; give a folder with tokenizer.json or a model "
            "of the Hugging Face hub"
        ) from None
    return Tokenizer(backend, str(model))
