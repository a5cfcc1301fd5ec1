"""The tokenizer as renderers see it: text is always literal, control tokens are asked for by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RendererError

if TYPE_CHECKING:
    import tokenizers


_BOS = ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>")


class Tokenizer:
    """A `tokenizers.Tokenizer` that never turns text into a control token.

    A control token is every token that was added to the vocabulary, "<|im_end|>" and "<think>" alike, runs of
    white space aside. strips: whether one of them takes the white space around it, in a template's text.
    prefix_ids: what stands before a text: what the tokenizer itself puts there, else, where a file doesn't
    say so, the BOS of Llama 3 and of DeepSeek, whose models have seen no text without; nothing for most.
    """

    def __init__(self, backend: tokenizers.Tokenizer, name: str) -> None:
        self.name = name
        self._backend = backend
        self.byte_level = backend.decoder is not None and b'"ByteLevel"' in backend.decoder.__getstate__()
        added = backend.get_added_tokens_decoder()
        self._added_bytes = {
            id: 0 if token.special else len(token.content.encode()) for id, token in added.items()
        }
        self._controls = {
            token.content: id for id, token in added.items() if token.special or not token.content.isspace()
        }
        self.strips = any(token.lstrip or token.rstrip for token in added.values())
        known = [self._controls[bos] for bos in _BOS if bos in self._controls]
        self.prefix_ids: list[int] = backend.encode("", add_special_tokens=True).ids or known
        self._control = re.compile(_any_of(self._controls) or "(?!)")
        self._words: dict[str, list[str | int]] = {}
        self._be_literal()

    def _be_literal(self) -> None:
        """ "<|im_end|>" in a text is encoded as those characters. The library holds back only tokens marked
        special, so all are marked. Neither flag is part of a pickle."""
        from tokenizers import AddedToken

        self._backend.add_special_tokens(
            [
                AddedToken(token.content, special=True, normalized=token.normalized)
                for token in self._backend.get_added_tokens_decoder().values()
                if not token.special and token.content in self._controls
            ]
        )
        self._backend.encode_special_tokens = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._be_literal()

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of literal text, with nothing added. Half a character, a lone surrogate, is U+FFFD."""
        return self._encoding(text).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each token where in the text it ends, in characters."""
        encoding = self._encoding(text)
        return encoding.ids, [end for _, end in encoding.offsets]

    def _encoding(self, text: str) -> tokenizers.Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except TypeError:
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._backend.encode(whole, add_special_tokens=False)

    def split(self, text: str) -> list[str | int]:
        """A text that may hold control tokens: pieces of plain text, and the ids of what stands between."""
        pieces: list[str | int] = []
        at = 0
        for match in self._control.finditer(text):
            if match.start() > at:
                pieces.append(text[at : match.start()])
            pieces.append(self._controls[match.group()])
            at = match.end()
        if at < len(text):
            pieces.append(text[at:])
        return pieces

    def words(self, text: str) -> list[str | int]:
        """`split` of a format's own words, which are few and come again. Not to be changed."""
        pieces = self._words.get(text)
        if pieces is None:
            pieces = self._words[text] = self.split(text)
        return pieces

    @functools.cached_property
    def control_parts(self) -> tuple[set[str], set[str]]:
        """How control tokens begin, and how they end: all parts that aren't the whole."""
        spelt = list(self._controls)
        return (
            {control[:n] for control in spelt for n in range(1, len(control))},
            {control[n:] for control in spelt for n in range(1, len(control))},
        )

    def controls_in(self, text: str) -> Iterator[re.Match[str]]:
        """Where a text spells control tokens."""
        return self._control.finditer(text)

    def sub_controls(self, change: Callable[[re.Match[str]], str], text: str) -> str:
        """The text with each control token that it spells replaced."""
        return self._control.sub(change, text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text, control tokens included; bytes that aren't whole characters become U+FFFD, ids that no
        token has become nothing."""
        try:
            return self._backend.decode(list(token_ids), skip_special_tokens=False)
        except OverflowError:  # the library takes 32 bits
            ids = [id for id in token_ids if 0 <= id < 1 << 32]
            return self._backend.decode(ids, skip_special_tokens=False)

    def utf8_length(self, token_ids: Sequence[int]) -> int:
        """How many bytes of text these tokens stand for, UTF-8; control tokens count none.

        Exact for byte-level vocabularies, also where a character is split and only part of it is here:
        the lengths of parts add up. For others it is the length of `decode`.
        """
        if not self.byte_level:
            return len(self.decode([id for id in token_ids if self._added_bytes.get(id) != 0]).encode())
        return sum(
            # a byte-level token is spelt with one letter a byte; an id beyond the vocabulary has no text
            self._added_bytes[id] if id in self._added_bytes else len(self._backend.id_to_token(id) or "")
            for id in token_ids
        )

    def control(self, token: str) -> int:
        """The id of a control token. Raises `RendererError` where the vocabulary lacks it."""
        id = self._controls.get(token)
        if id is None:
            raise RendererError(
                f"the tokenizer of {self.name!r} has no control token {token!r}: this chat format isn't "
                "its own; choose another with renderer=..., `cookbook list renderer` shows them"
            )
        return id


def _any_of(tokens: Collection[str]) -> str:
    """A pattern for all these, the longest that fits. What they begin with alike stands there once: some
    vocabularies have a thousand control tokens, and a text isn't held against each."""
    groups: dict[str, list[str]] = {}
    for token in tokens:
        if token:
            groups.setdefault(token[0], []).append(token[1:])
    ways = "|".join([re.escape(first) + _any_of(rest) for first, rest in groups.items()])
    ends = "" in tokens
    return f"(?:{ways})" + "?" * ends if len(groups) > 1 or (ends and ways) else ways


def model_file(model: str | Path, name: str) -> Path | None:
    """A file of a model's folder, or of its repository on the Hugging Face hub; None where there is none.

    Raises `RendererError` with one line where the hub can't be asked.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(model), name))
    except (EntryNotFoundError, OSError, ValueError) as e:
        if isinstance(e, EntryNotFoundError) and not isinstance(e, LocalEntryNotFoundError):
            return None  # the repository is there, and has no such file
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise RendererError(f"no {name} of {str(model)!r}: {reason}; give a folder that holds it") from None


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
