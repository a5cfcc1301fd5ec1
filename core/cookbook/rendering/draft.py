"""Pieces of a conversation, and how they become tokens. A format writes pieces; only this encodes them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from ..errors import RendererError
from .images import PLACEHOLDER, Image, ImageChunk
from .tokenizers import Tokenizer

Kind = Literal["header", "content", "stop"]


class Origin(NamedTuple):
    """Where a token comes from. message: its place in the conversation, None for what the format adds.
    kind: header (who speaks, and all that a generation prompt gives), content, or stop."""

    message: int | None
    kind: Kind


class Piece(NamedTuple):
    """Text to be encoded together with the text it touches, a control token's id, or an image."""

    what: str | int | ImageChunk
    origin: Origin
    weight: float
    cut: bool = False  # a token may not reach over the border before this piece


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a conversation is for a model.

    token_ids: an image stands as a run of -1. weights: of each token's loss, 1.0 trained, 0.0 not; both of
    one length. `origins` says for each token which message it belongs to, `chunks` puts the images between.
    """

    token_ids: list[int]
    weights: list[float]
    runs: tuple[tuple[Piece, ...], ...] = field(default=(), repr=False, compare=False)
    tokenizer: Tokenizer | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle is without the tokenizer, which is a hundred times as large."""
        return Rendered, (self.token_ids, self.weights, self.runs)

    def only_tokens(self) -> list[int]:
        """`token_ids`, for who can't carry images. Raises `RendererError` where there are images."""
        if any(isinstance(run[0].what, ImageChunk) for run in self.runs):
            raise RendererError(
                "the loops don't carry images yet; render them yourself, `chunks` has what a model takes"
            )
        return self.token_ids

    @property
    def origins(self) -> list[Origin]:
        """For each token its message and kind; one that two pieces share is the first one's.

        Raises `RendererError` for what comes from a pickle, which has no tokenizer.
        """
        if self.tokenizer is None:
            raise RendererError("origins can't be told of what was unpickled; ask before, or render anew")
        origins: list[Origin] = []
        for run in self.runs:
            if isinstance(run[0].what, str):
                ends = self.tokenizer.encode_with_offsets("".join([str(piece.what) for piece in run]))[1]
                origins += [run[places[0]].origin for places in _places(run, ends)]
            else:
                what = run[0].what
                origins += [run[0].origin] * (what.expected_tokens if isinstance(what, ImageChunk) else 1)
        return origins

    @property
    def chunks(self) -> list[list[int] | ImageChunk]:
        """Token ids, and images where they stand between them."""
        images = [run[0].what for run in self.runs if isinstance(run[0].what, ImageChunk)]
        chunks: list[list[int] | ImageChunk] = []
        at = 0
        for image in images:
            start = self.token_ids.index(PLACEHOLDER, at)
            if start > at:
                chunks.append(self.token_ids[at:start])
            chunks.append(image)
            at = start + image.expected_tokens
        return [*chunks, self.token_ids[at:]] if at < len(self.token_ids) else chunks


class Draft:
    """What a format writes a conversation into: whose words, in which order.

    `header`, `own` and `stop` take the format's own words, in which control tokens are what they are
    called. `text` takes somebody's: they stay text, whatever they look like, unless `parity`, which treats
    them as a chat template does. `begin` says whose message follows.

    A reply's header is what a prompt gives, and the rest what a model samples, so no token may reach over
    the border between them; with `parity` it may, where it does in the template's string.
    """

    def __init__(self, tokenizer: Tokenizer, parity: bool, trained: Collection[int] | None = ()) -> None:
        """trained: the messages whose content and stop have weight 1; None: all tokens have."""
        self.pieces: list[Piece] = []
        self.trained = trained
        self._tokenizer, self._parity = tokenizer, parity
        self._message: int | None = None
        self._weight = self._header_weight = float(trained is None)
        self._reply = False
        self._cut = False

    def begin(self, message: int | None, *, reply: bool = False) -> None:
        """What follows belongs to the message at this place; None: to no message of the conversation."""
        self._message = message
        self._reply = reply and not self._parity
        self._weight = float(self.trained is None or message in self.trained)

    def border(self) -> None:
        """No token may reach over this place."""
        self._cut = True

    def bos(self) -> None:
        """What the tokenizer itself puts before a text."""
        self.add(self._tokenizer.prefix_ids, "header")

    def header(self, text: str) -> None:
        """The format's words before a message's content, which no reply contains."""
        self.add(self._tokenizer.words(text), "header")

    def own(self, text: str) -> None:
        """The format's words within a message's content."""
        self.add(self._tokenizer.words(text), "content")

    def text(self, text: str, kind: Kind = "content") -> None:
        """Somebody's words."""
        if not isinstance(text, str):  # an int would be a token's id
            raise RendererError(f"{text!r} stands where text must")
        if text:
            self.add(self._tokenizer.split(text) if self._parity else [text], kind)

    def image(self, image: Image, expected_tokens: int) -> None:
        self.add([ImageChunk(image, expected_tokens)], "content")

    def stop(self, text: str) -> None:
        """What ends a message; of a reply, what a model samples to end it."""
        self.add(self._tokenizer.words(text), "stop")

    def add(self, pieces: Sequence[str | int | ImageChunk], kind: Kind) -> None:
        """Plain text, control tokens by their ids, images."""
        origin = Origin(self._message, kind)
        weight = self._header_weight if kind == "header" else self._weight
        if self._reply and kind != "header":
            self._reply, self._cut = False, True  # one border a reply
        for what in pieces:
            self.pieces.append(Piece(what, origin, weight, self._cut))
            self._cut = False

    def runs(self, start: int = 0) -> Iterator[list[Piece]]:
        """The pieces from `start` on, text that is encoded together in one list."""
        run: list[Piece] = []
        for piece in self.pieces[start:]:
            if run and (piece.cut or not isinstance(piece.what, str) or not isinstance(run[0].what, str)):
                yield run
                run = []
            run.append(piece)
        if run:
            yield run


class Encoder:
    """Encodes drafts, each text once while it is remembered: a conversation that grows costs what is new.

    What is remembered is bounded, and isn't part of a pickle.
    """

    REMEMBERED = 1 << 20  # characters

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self._known: dict[str, list[int]] = {}
        self._characters = 0

    def __getstate__(self) -> Tokenizer:
        return self._tokenizer

    def __setstate__(self, tokenizer: Tokenizer) -> None:
        self.__init__(tokenizer)

    def text(self, text: str) -> list[int]:
        """Token ids of literal text. Not to be changed."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text)
            self._characters += len(text)
            if self._characters > self.REMEMBERED:
                self._forget()
            self._known[text] = ids
        return ids

    def render(self, draft: Draft, start: int = 0) -> Rendered:
        """The draft's tokens from a piece on, with weights: of a token that pieces share, the least."""
        ids: list[int] = []
        weights: list[float] = []
        runs = [tuple(run) for run in draft.runs(start)]
        for run in runs:
            what, _, weight, _ = run[0]
            if isinstance(what, int):
                ids.append(what)
                weights.append(weight)
                continue
            if isinstance(what, ImageChunk):
                run_ids = [PLACEHOLDER] * what.expected_tokens
            elif len(run) == 1:
                run_ids = self.text(what)
            else:
                text = "".join([piece.what for piece in run])  # type: ignore[misc]
                if any(piece.weight != weight for piece in run):
                    run_ids, ends = self._tokenizer.encode_with_offsets(text)
                    ids += run_ids
                    weights += [min([run[i].weight for i in places]) for places in _places(run, ends)]
                    continue
                run_ids = self.text(text)
            ids += run_ids
            weights += [weight] * len(run_ids)
        return Rendered(ids, weights, tuple(runs), self._tokenizer)


def _places(run: tuple[Piece, ...], ends: list[int]) -> Iterator[range]:
    """For each token, given where it ends, the pieces of the run that it stands in."""
    borders = list(accumulate([len(str(piece.what)) for piece in run]))
    last, before = len(run) - 1, 0
    for end in ends:
        first = min(bisect_right(borders, before), last)
        final = min(bisect_right(borders, end - 1), last) if end > before else first
        yield range(first, final + 1)
        before = max(before, end)
