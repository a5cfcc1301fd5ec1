"""What a renderer is. One class a chat format; a format's variants are rows of options."""

from __future__ import annotations

import abc
import functools
import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .. import registry
from ..errors import RendererError
from ..types import Message
from .draft import Draft, Encoder, Rendered
from .messages import Plain, plain
from .stream import Parsed, Region, ResponseStream, Step
from .tokenizers import Tokenizer

TrainOnWhat = Literal[
    "last_assistant_message",
    "last_assistant_turn",
    "all_assistant_messages",
    "all_messages",
    "all_tokens",
    "all_user_and_system_messages",
    "customized",
]
"""Which messages of a conversation a supervised example trains. A turn: the assistant's messages after the
last user's. customized: the messages with a true `trainable`. all_tokens: headers too."""

Tools = Sequence[Mapping[str, Any]] | None


class Renderer(abc.ABC):
    """Turns messages into tokens and sampled tokens back into a message. Holds nothing between calls but
    encodings of texts, which change no result.

    A format writes a conversation into a `Draft`, as its chat template does (`_write`), and reads a reply's
    tokens (`_read`). An assistant message is a reply: a header, which a prompt gives, then what a model
    samples, its content and its stop.

    hf_parity: everybody's text is treated as a chat template treats it, byte for byte: "<|im_end|>" in a
    user's message ends it, and tokens reach over the border between a reply's header and its content.
    """

    id: str = ""
    """The id in the registry, where `get_renderer` made it."""
    exceptions: Mapping[str, str] = {}
    """Where this format is an exception to what holds for every other, and why: to which replies it applies
    and what holds instead stand in tests/renderer_exceptions.py; the tests hold it to no more than this."""

    def __init__(self, tokenizer: Tokenizer, *, hf_parity: bool = False) -> None:
        self.options: dict[str, Any] = {}
        self.tokenizer = tokenizer
        self.hf_parity = hf_parity
        self._encoder = Encoder(tokenizer)

    @abc.abstractmethod
    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        """The conversation, `out.begin(i)` before the message i; `begin(i, reply=True)` for an assistant's.

        prompt: ends with the header of the reply to come, begun as `begin(len(messages), reply=True)`. What
        stands between two messages belongs to the header of the later one. Raises `RendererError` for
        what the format has no form for.
        """

    @abc.abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Token ids, or strings, that end a reply; the reply's tokens contain them."""

    def _read(
        self, token_ids: list[int], prompt_ids: Sequence[int], stop: int | None, tools: Tools
    ) -> tuple[Message, str]:
        """The message that a reply's tokens, up to its stop and without it, say; and what is wrong with it,
        or "". All is content, unless a format knows more. prompt_ids: what it was sampled after, empty where
        nobody says. Never raises."""
        return Message(role="assistant", content=self.tokenizer.decode(token_ids)), ""

    _weighs_replies = False
    """Whether what stands of a reply depends on other replies, also on some that weren't sampled."""

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Whether the format writes the tokens so far otherwise once these messages follow them."""
        return False

    def parse_response(
        self, token_ids: Sequence[int], *, prompt_ids: Sequence[int] | None = None, tools: Tools = None
    ) -> Parsed:
        """The reply as a message. Never raises on any token list.

        prompt_ids: the tokens it was sampled after, which may have begun it (a "<think>", say).
        tools: what was declared; formats that don't write the types of arguments take them from here.
        """
        ids = list(token_ids)
        stops = self.get_stop_sequences()
        ends = [i for i, id in enumerate(ids) if id in stops]
        if not ends:
            return Parsed(self._read(ids, prompt_ids or (), None, tools)[0], False)
        message, problem = self._read(ids[: ends[0]], prompt_ids or (), ids[ends[0]], tools)
        if ends[0] + 1 < len(ids):
            problem = f"{len(ids) - ends[0] - 1} tokens after the stop"
        return Parsed(message, True, problem)

    def stream_response(
        self, *, prompt_ids: Sequence[int] | None = None, tools: Tools = None
    ) -> ResponseStream:
        """Reads a reply while it is sampled: `feed` its tokens, then `finish`. Arguments as in
        `parse_response`."""
        parse = functools.partial(self.parse_response, prompt_ids=prompt_ids, tools=tools)
        return ResponseStream(self.tokenizer, self._steps(prompt_ids or ()), self.get_stop_sequences(), parse)

    def _steps(self, prompt_ids: Sequence[int]) -> Step:
        """Which region of a reply each of its ids belongs to; all is content, unless a format has others."""

        def step(id: int) -> Region | None:
            return "content"

        return step

    def bridge(
        self, token_ids: Sequence[int], stopped: bool, messages: Sequence[Message]
    ) -> list[int] | None:
        """What to append to an episode's tokens, which end with a reply, to go on with `messages`.

        Never re-encodes what was sampled. A reply that was cut off gets its stop here. None where the
        format can't extend: it edits what came before, or a stop that was sampled can't stand there.
        Raises `RendererError` for images, and for what the format can't say.
        """
        plains = [plain(message, f"messages[{i}]") for i, message in enumerate(messages)]
        unsampled = any(message.role == "assistant" for message in plains)
        if self._edits(token_ids, plains) or (unsampled and self._weighs_replies):
            return None
        before = self._before(token_ids)
        origin = (len(before) - 1, "stop")
        out = self._draft()
        self._write(out, [*before, *plains], None, prompt=True)
        stop = [i for i, piece in enumerate(out.pieces) if piece.origin == origin]
        if stopped and [out.pieces[i].what for i in stop] != self._sampled_stop:
            return None
        return self._encoder.render(out, stop[-1] + 1 if stopped else stop[0]).only_tokens()

    @functools.cached_property
    def _sampled_stop(self) -> list[Any]:
        """What a model samples to end a reply: what stands there when nothing follows."""
        before = self._before(())
        out = self._draft()
        self._write(out, before, None, prompt=False)
        return [piece.what for piece in out.pieces if piece.origin == (len(before) - 1, "stop")]

    def _before(self, token_ids: Sequence[int]) -> list[Plain]:
        """What stands for the conversation so far, whose tokens these are, when a bridge is written: messages
        whose last is a reply."""
        return [Plain("assistant")]

    def build_generation_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = None,
        prefill: str | None = None,
    ) -> Rendered:
        """The tokens to sample a reply after; all of weight 0.

        tools: declarations, {"name", "description", "parameters": JSON schema}, also in OpenAI's wrapping.
        prefill: how the reply begins; control tokens in it are what they are called.
        Raises `RendererError` for what the format has no form for, tools or an image, say.
        """
        out = self._draft()
        self._write(out, self._plains(messages), tools or None, prompt=True)
        if prefill:
            out.begin(len(messages), reply=True)
            out.border()
            out.add(self.tokenizer.split(prefill), "content")
        return self._encoder.render(out)

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        *,
        train_on_what: TrainOnWhat = "all_assistant_messages",
        tools: Tools = None,
    ) -> Rendered:
        """A whole conversation: weight 1 on the content and the stop of the trained messages, 0 on all else.

        The tokens before what a model says in the last message equal the prompt to it. Where a format
        edits history, an earlier message stands as history has it: `build_supervised_examples` trains each
        as it was said. Raises `RendererError` where nothing is to be trained, for a trained message that a
        model can't say in this format, and for what the format has no form for.
        """
        plains = self._plains(messages)
        return self._supervised(plains, self._trained(plains, train_on_what), tools)

    def build_supervised_examples(
        self,
        messages: Sequence[Message],
        *,
        train_on_what: TrainOnWhat = "all_assistant_messages",
        tools: Tools = None,
    ) -> list[Rendered]:
        """The same training as examples in which every trained reply stands after the prompt that it would be
        sampled after: one, where the format keeps history as it was said, else as few as it can be.

        Trains each reply once. What isn't about replies (`all_messages`, say) is always one example.
        """
        plains = self._plains(messages)
        trained = self._trained(plains, train_on_what)
        if trained is None or any(plains[i].role != "assistant" for i in trained):
            return [self._supervised(plains, trained, tools)]
        examples: list[Rendered] = []
        for i in trained:
            example = self._supervised(plains[: i + 1], [i], tools)
            if examples and _begins(example, earlier := examples[-1]):
                weights = [*earlier.weights, *example.weights[len(earlier.weights) :]]
                example = Rendered(example.token_ids, weights, example.runs, example.tokenizer)
                examples.pop()
            examples.append(example)
        return examples

    def _supervised(self, plains: Sequence[Plain], trained: list[int] | None, tools: Tools) -> Rendered:
        out = Draft(self.tokenizer, self.hf_parity, trained)
        self._write(out, plains, tools or None, prompt=False)
        return self._encoder.render(out)

    def _draft(self) -> Draft:
        return Draft(self.tokenizer, self.hf_parity)

    def _plains(self, messages: Sequence[Message]) -> list[Plain]:
        return [plain(message, f"messages[{i}]") for i, message in enumerate(messages)]

    def _trained(self, plains: Sequence[Plain], train_on_what: TrainOnWhat) -> list[int] | None:
        """The places of the trained messages; None: all tokens. Raises `RendererError` for none, and for
        a reply that can't be trained."""
        if train_on_what not in get_args(TrainOnWhat):
            raise RendererError(f"train_on_what={train_on_what!r}: it is one of {get_args(TrainOnWhat)}")
        if train_on_what == "all_tokens":
            return None
        trained = _chosen(plains, train_on_what)
        if not trained:
            roles = ", ".join(repr(message.role) for message in plains) or "none"
            raise RendererError(
                f"train_on_what={train_on_what!r} trains nothing of this conversation (its roles: {roles}); "
                "leave it out, or give the reply the role 'assistant'"
            )
        for i in trained:
            if plains[i].role == "assistant":
                self._check_trained(plains, i)
        return trained

    def _check_trained(self, plains: Sequence[Plain], i: int) -> None:
        """Raises `RendererError` for a reply that can't be sampled in this format."""


def _chosen(plains: Sequence[Plain], train_on_what: TrainOnWhat) -> list[int]:
    roles = [message.role for message in plains]
    replies = [i for i, role in enumerate(roles) if role == "assistant"]
    match train_on_what:
        case "last_assistant_message":
            return replies[-1:]
        case "last_assistant_turn":
            after = max([i for i, role in enumerate(roles) if role == "user"], default=-1)
            return [i for i in replies if i > after]
        case "all_assistant_messages":
            return replies
        case "all_user_and_system_messages":
            return [i for i, role in enumerate(roles) if role in ("user", "system")]
        case "customized":
            return [i for i, message in enumerate(plains) if message.trainable]
        case _:
            return list(range(len(roles)))


def _begins(example: Rendered, earlier: Rendered) -> bool:
    return example.token_ids[: len(earlier.token_ids)] == earlier.token_ids


def get_renderer(id: str, tokenizer: Tokenizer, /, **options: Any) -> Renderer:
    """A registered renderer for this tokenizer; it says which it is (`id`) and what made it so (`options`).

    Raises `UnknownIdError`, `PluginError`, and `RendererError` for an option that it doesn't take.
    """
    row = registry.find("renderer", id)
    target = row.load()
    try:
        inspect.signature(target).bind(tokenizer, **options)
    except TypeError as e:
        raise RendererError(f"renderer {row.id}: {e}; `cookbook show {row.id}` lists its options") from None
    _check_options(row.id, target, options)
    renderer: Renderer = target(tokenizer, **options)
    renderer.id = row.id
    renderer.options = {**row.options, **options, **renderer.options}
    return renderer


def _check_options(id: str, target: Any, options: Mapping[str, Any]) -> None:
    """Raises `RendererError` for a value that the target's annotations, `Literal` and bool, don't allow."""
    function = getattr(target, "func", target)
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)
    for name, value in options.items():
        hint = hints.get(name)
        allowed = [True, False] if hint is bool else _literals(hint)
        if allowed and not any(
            value is each or (value == each and type(value) is type(each)) for each in allowed
        ):
            raise RendererError(
                f"renderer {id}: {name}={value!r}: it is one of {', '.join(map(repr, allowed))}"
            )


def _literals(hint: Any) -> list[Any]:
    """The values that `Literal[...]`, alone or with others, allows; empty, where it allows all."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not any(get_origin(part) is Literal for part in parts):
        return []
    return [value for part in parts for value in (get_args(part) if get_origin(part) is Literal else [None])]
