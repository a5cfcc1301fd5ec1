"""Log-probabilities of given tokens. What a sequence gets depends on its weights and tokens only."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

import tinker
import torch

from cookbook.errors import ConfigError

from .decoding import DECODE_ROWS, PREFILL_ROWS, Decoder, attend_each, log_probabilities, prompt_ids
from .llama import LlamaShape

# In a pass, unless one sequence is longer; changes no bits. Decoding waits for a pass, and larger ones
# are no faster.
_PASS_TOKENS = 512


@dataclass(frozen=True)
class ScoreRequest:
    """One call of `compute_logprobs`. last_n: how many tokens at the end are scored."""

    tokens: tuple[int, ...]
    last_n: int
    future: Future[list[float | None]]

    @property
    def sequence(self) -> tuple[tuple[int, ...], int]:
        return self.tokens, self.last_n


class Scorer:
    """Scores all requests on one snapshot of the weights, several a step. Used from one thread."""

    def __init__(self, decoder: Decoder) -> None:
        self._model, self._factors, self.place = decoder.model, decoder.factors, decoder.place
        self._waiting: list[ScoreRequest] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def add(self, request: ScoreRequest) -> None:
        self._waiting.append(request)

    def abandon(self, error: BaseException) -> None:
        """Fails every request that isn't answered yet."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)

    @torch.inference_mode()
    def step(self) -> None:
        """Lets cancelled requests go, then scores the first ones that fit in a pass."""
        self._waiting = [r for r in self._waiting if not r.future.cancelled()]
        sequences, room = [], _PASS_TOKENS
        for sequence in dict.fromkeys(r.sequence for r in self._waiting):
            room -= len(sequence[0])
            if sequences and room < 0:
                break
            sequences.append(sequence)
        found = dict(zip(sequences, self._score(sequences), strict=True)) if sequences else {}
        answered = [r for r in self._waiting if r.sequence in found]
        self._waiting = [r for r in self._waiting if r.sequence not in found]
        for request in answered:
            if request.future.set_running_or_notify_cancel():
                request.future.set_result(list(found[request.sequence]))

    def _score(self, sequences: list[tuple[tuple[int, ...], int]]) -> list[list[float | None]]:
        """Sequences side by side; each attends to itself alone."""
        lengths = [len(tokens) for tokens, _ in sequences]
        ids = torch.tensor([token for tokens, _ in sequences for token in tokens])
        positions = torch.cat([torch.arange(n) for n in lengths])
        hidden = self._model.hidden(
            ids,
            positions,
            self._factors,
            lambda layer, q, k, v: attend_each(lengths, q, k, v),
            rows=PREFILL_ROWS,
        )
        ends = torch.tensor(lengths).cumsum(0).tolist()
        scored = [(end - n, end) for (_, n), end in zip(sequences, ends, strict=True)]
        rows = torch.cat([torch.arange(first - 1, end - 1) for first, end in scored])
        # By parts: the logits of a whole pass would take more memory than all the weights.
        found = [
            log_probabilities(self._model.logits(hidden[part], rows=DECODE_ROWS), ids[part + 1])
            for part in rows.split(DECODE_ROWS)
        ]
        values = iter(torch.cat(found).tolist())
        return [[*[None] * (len(tokens) - n), *islice(values, n)] for tokens, n in sequences]


def new_score_request(prompt: tinker.ModelInput, last_n: int | None, shape: LlamaShape) -> ScoreRequest:
    """A request from tinker's types. Raises `ConfigError` for what can't be scored."""
    ids = prompt_ids(prompt, shape)
    if len(ids) > shape.context:
        raise ConfigError(f"{len(ids)} prompt tokens don't fit in {shape.context} of context")
    if last_n is not None and not 1 <= last_n < len(ids):
        raise ConfigError(
            f"prompt_logprobs_last_n={last_n}: must be from 1 to {len(ids) - 1}, all tokens but the first"
        )
    return ScoreRequest(ids, len(ids) - 1 if last_n is None else last_n, Future())
