"""Byte-level BPE tokenizers: those of SmolLM2, Llama 3 and Qwen, made new or from a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

# How text is cut into words before merging, as the tokenizer.json of Meta-Llama-3-8B and of Qwen2-7B have
# it: contractions, words with the sign before them, digits in groups, signs, line ends, other space.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"llama-bpe": _WORDS % "{1,3}", "qwen2": _WORDS % ""}

PRE_TOKENIZERS = ("smollm", *_PATTERNS)
"""The kinds there are, as a GGUF file names them in `tokenizer.ggml.pre`."""


def byte_level_tokenizer(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    control: Sequence[str],
    unknown: str | None,
    pre: str = "smollm",
) -> Tokenizer:
    """A byte-level BPE that adds no space in front.

    An id is a place in `tokens`. `control` are those of them that are special tokens, `unknown` stands
    for a byte that has no token. `pre`: of `PRE_TOKENIZERS`; smollm, SmolLM2's, has digits stand alone.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = {token: place for place, token in enumerate(tokens)}
    # Llama 3 has words as tokens that its merges don't lead to.
    bpe = models.BPE(vocab=vocab, merges=list(merges), unk_token=unknown, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(bpe)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def _pre_tokenizer(pre: str) -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    if pre in _PATTERNS:
        first = pre_tokenizers.Split(Regex(_PATTERNS[pre]), "isolated")
    else:
        first = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _PATTERNS)
    return pre_tokenizers.Sequence([first, level])


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a GGUF file. metadata: its fields `tokenizer.ggml.*`, without that prefix; `pre` is
    one of `PRE_TOKENIZERS`. Raises `KeyError` for a field that isn't there."""
    from gguf import TokenType
    from tokenizers import AddedToken, processors

    tokens, pre = metadata["tokens"], metadata["pre"]
    kinds = list(zip(tokens, metadata["token_type"], strict=True))
    control = [token for token, kind in kinds if kind == TokenType.CONTROL]
    merges = [tuple(merge.split(" ")) for merge in metadata["merges"]]
    unknown = tokens[metadata["unknown_token_id"]] if "unknown_token_id" in metadata else None
    tokenizer = byte_level_tokenizer(tokens, merges, control, unknown, pre)
    # Qwen's <tool_call>, say: found whole in a text, and kept where special tokens are left out.
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in kinds if kind == TokenType.USER_DEFINED]
    )
    # llama.cpp too lets a Llama 3 file begin each text with its bos unless the file says otherwise.
    if metadata.get("add_bos_token", pre == "llama-bpe"):
        place = metadata["bos_token_id"]
        bos = tokens[place]
        begin = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, place)]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return tokenizer
