"""What a renderer is. One class a chat format; a format's variants are rows of options."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..errors import RendererError
from ..types import Message
from .tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, and for each the weight of its loss (0.0: not trained). Equal lengths."""

    token_ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What sampled tokens say. `stopped`: they end with the format's stop, so nothing was cut off."""

    message: Message
    stopped: bool


class Renderer(abc.ABC):
    """Turns messages into tokens and sampled tokens back into a message. Holds no state between calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @abc.abstractmethod
    def _message(self, message: Message) -> list[int]:
        """The tokens of one whole message, the separator after it included."""

    @abc.abstractmethod
    def _opening(self, messages: Sequence[Message]) -> list[int]:
        """What stands before the first message."""

    @abc.abstractmethod
    def _reply_header(self) -> list[int]:
        """What invites the model to speak."""

    @abc.abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Token ids, or strings, that end a reply; the reply's tokens contain them."""

    @abc.abstractmethod
    def parse_response(self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None) -> Parsed:
        """The reply as a message. Never raises on any token list."""

    @abc.abstractmethod
    def bridge(
        self, token_ids: Sequence[int], stopped: bool, messages: Sequence[Message]
    ) -> list[int] | None:
        """What to append to an episode's tokens, which end with a reply, to go on with `messages`.

        Never re-encodes what was sampled. A reply that was cut off gets its stop here. None where the
        format can't extend.
        """

    def build_generation_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prefill: str | None = None,
    ) -> Rendered:
        """The tokens to sample a reply after; all of weight 0.

        Raises `RendererError` for a message that the format can't say, and for tools where it has no
        form for them.
        """
        if tools:
            raise RendererError(f"{type(self).__name__} has no form for tools; choose another renderer=...")
        ids = self._opening(messages)
        for message in messages:
            ids += self._message(message)
        ids += self._reply_header()
        if prefill:
            ids += self.tokenizer.encode(prefill)
        return Rendered(ids, [0.0] * len(ids))


def get_renderer(id: str, tokenizer: Tokenizer, **options: Any) -> Renderer:
    """A registered renderer for this tokenizer. Raises `UnknownIdError`, `PluginError`, `RendererError`."""
    return registry.find("renderer", id).load()(tokenizer, **options)
