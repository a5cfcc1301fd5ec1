"""A tokenizer with one token a byte, made in memory: what a test needs of tokens, with no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..rendering import Tokenizer

if TYPE_CHECKING:
    import tokenizers

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""ChatML's control tokens; their places are their ids."""

CALLS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""What Qwen3's format has besides, for reasoning and calls of tools."""


def byte_tokenizer(extra: Sequence[str] = ()) -> Tokenizer:
    """A byte-level tokenizer that knows ChatML: `CONTROL`, 256 bytes, and the control tokens `extra`."""
    return Tokenizer(byte_level(extra), "bytes")


def byte_level(extra: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """The same as the library's object, to be written to a file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*CONTROL, *sorted(ByteLevel.alphabet()), *extra]
    vocab = {token: id for id, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=CONTROL[0]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    control = [AddedToken(token, normalized=False, special=True) for token in (*CONTROL, *extra)]
    backend.add_special_tokens(control)
    return backend
