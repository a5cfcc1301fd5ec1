"""What a renderer is. One class a chat format; a format's variants are rows of options."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .. import registry
from ..errors import RendererError
from ..types import Message
from .tokenizers import Tokenizer

TrainOnWhat = Literal["last_assistant_message", "all_assistant_messages"]
"""Which messages of a conversation a supervised example trains."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, and for each the weight of its loss: 1.0 trained, 0.0 not. Equal lengths."""

    token_ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What sampled tokens say. `stopped`: they end with the format's stop, so nothing was cut off."""

    message: Message
    stopped: bool


class Renderer(abc.ABC):
    """Turns messages into tokens and sampled tokens back into a message. Holds no state between calls.

    An assistant message is a reply: header tokens that are given, then what a model samples, its content
    and its stop. The two are encoded apart everywhere, so that prompts, bridges and supervised examples
    agree token for token. A format says how its pieces are written; `before` and `after` are the roles of
    the messages around a piece, None where there is none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @abc.abstractmethod
    def _opening(self, messages: Sequence[Message]) -> list[int]:
        """What stands before the first message. Looks at the first message only."""

    @abc.abstractmethod
    def _message(self, message: Message, before: str | None) -> list[int]:
        """One whole message that isn't a reply."""

    @abc.abstractmethod
    def _reply_header(self, before: str | None) -> list[int]:
        """What invites the model to speak."""

    @abc.abstractmethod
    def _reply(self, content: str, after: str | None) -> list[int]:
        """What a model samples to say this, and what ends it before a message of that role."""

    @abc.abstractmethod
    def _end(self, after: str | None) -> list[int]:
        """What ends a reply before a message of that role; for None the stop that a model samples."""

    @abc.abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Token ids, or strings, that end a reply; the reply's tokens contain them."""

    @abc.abstractmethod
    def parse_response(self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None) -> Parsed:
        """The reply as a message. Never raises on any token list."""

    def bridge(
        self, token_ids: Sequence[int], stopped: bool, messages: Sequence[Message]
    ) -> list[int] | None:
        """What to append to an episode's tokens, which end with a reply, to go on with `messages`.

        Never re-encodes what was sampled. A reply that was cut off gets its stop here. None where the
        format can't extend.
        """
        after = messages[0]["role"] if messages else "assistant"
        if stopped and not self._goes_on(after):
            return None
        return ([] if stopped else self._end(after)) + self._up_to_reply(messages, "assistant")

    def build_generation_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prefill: str | None = None,
    ) -> Rendered:
        """The tokens to sample a reply after; all of weight 0.

        Raises `RendererError` for tools where the format has no form for them.
        """
        self._refuse(tools)
        ids = self._opening(messages) + self._up_to_reply(messages, None)
        if prefill:
            ids += self.tokenizer.encode(prefill)
        return Rendered(ids, [0.0] * len(ids))

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        *,
        train_on_what: TrainOnWhat = "all_assistant_messages",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rendered:
        """A whole conversation: weight 1 on what a model samples in the trained messages, their stops
        included, 0 on all else.

        The tokens before the content of the trained message i equal `build_generation_prompt(messages[:i])`.
        Raises `RendererError` where no message is to be trained, for a trained message that a model
        can't say or stop after in this format, and for tools where the format has no form for them.
        """
        self._refuse(tools)
        trained = self._trained(messages, train_on_what)
        ids = self._opening(messages)
        weights = [0.0] * len(ids)
        for i, (given, said) in enumerate(self._pieces(messages, None)):
            ids += given + said
            weights += [0.0] * len(given) + [float(i in trained)] * len(said)
        return Rendered(ids, weights)

    def _pieces(
        self, messages: Sequence[Message], start: str | None
    ) -> Iterator[tuple[list[int], list[int]]]:
        """For each message the tokens that are given, then those that a model says. They stand after a
        message of the role `start`."""
        roles = [start, *(message["role"] for message in messages), None]
        for message, before, after in zip(messages, roles[:-2], roles[2:], strict=True):
            if message["role"] == "assistant":
                yield self._reply_header(before), self._reply(message["content"], after)
            else:
                yield self._message(message, before), []

    def _up_to_reply(self, messages: Sequence[Message], before: str | None) -> list[int]:
        """The messages, which stand after one of the role `before`, and the header of the reply to them."""
        *history, (header, _) = self._pieces([*messages, Message(role="assistant", content="")], before)
        return [id for given, said in history for id in given + said] + header

    def _goes_on(self, after: str | None) -> bool:
        """Whether a message of that role can follow the stop that a model samples."""
        return self._end(after) == self._end(None)

    def _trained(self, messages: Sequence[Message], train_on_what: TrainOnWhat) -> list[int]:
        """The places of the trained messages. Raises `RendererError` for what can't be trained."""
        if train_on_what not in get_args(TrainOnWhat):
            raise RendererError(f"train_on_what={train_on_what!r}: it is one of {get_args(TrainOnWhat)}")
        replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not replies:
            roles = ", ".join(repr(message["role"]) for message in messages) or "none"
            raise RendererError(
                f"a conversation without an assistant message trains nothing (its roles: {roles}); "
                "leave it out, or give the reply the role 'assistant'"
            )
        trained = replies[-1:] if train_on_what == "last_assistant_message" else replies
        for i in trained:
            self._check_trained(messages, i)
        return trained

    def _check_trained(self, messages: Sequence[Message], i: int) -> None:
        """A trained message must be what sampling can give, and what comes next must fit its stop."""
        stops = self.get_stop_sequences()
        where = f"{type(self).__name__}: messages[{i}], a trained assistant message,"
        for stop in stops:
            if isinstance(stop, str) and stop in messages[i]["content"]:
                raise RendererError(
                    f"{where} contains the stop {stop!r}, where sampling would end; leave the conversation "
                    "out, or choose another renderer=..."
                )
        after = messages[i + 1]["role"] if i + 1 < len(messages) else None
        if not self._goes_on(after):
            raise RendererError(
                f"{where} ends with the stop {stops[0]!r}, which no {after!r} message can follow; put a "
                "'user' message between them, leave the conversation out, or choose another renderer=..."
            )

    def _refuse(self, tools: Sequence[Mapping[str, Any]] | None) -> None:
        if tools:
            raise RendererError(f"{type(self).__name__} has no form for tools; choose another renderer=...")


def get_renderer(id: str, tokenizer: Tokenizer, **options: Any) -> Renderer:
    """A registered renderer for this tokenizer. Raises `UnknownIdError`, `PluginError`, `RendererError`."""
    return registry.find("renderer", id).load()(tokenizer, **options)
