"""Sampling with a cache of keys and values. Requests join and leave at every step.

What a request gets depends on its weights, tokens and seed only, never on what is computed beside it, nor
on what of its prompt was known already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tinker
import torch
from tinker.types.topk_logprobs import TopkLogprobs

from . import row_ops
from .cache import BLOCK, Key, Pool, Prefixes
from .cached_attention import Decoded, Form, Portion, Prompt, capacity, find_form, side_by_side
from .distribution import choose, likeliest, log_probabilities
from .llama import Llama, Lora
from .request import Request, Scores, Scoring

_PASS_TOKENS = 1024  # rows of a forward pass, unless more sequences are being decoded
_ROWS = 256  # sequences that are decoded together; the others wait
_CACHE_BYTES = 2**32  # of keys and values at work, beyond which no further prompt begins
_SCORED_ROWS = 128  # logits of so many tokens of a prompt at once


class Kit:
    """What all decoders of one model share. packed: whether they sample from `Llama.packed`."""

    def __init__(
        self, model: Llama, decode_text: Callable[[Sequence[int]], str], *, packed: bool = True
    ) -> None:
        self._given, self._packed, self.decode_text = model, packed, decode_text

    @property
    def model(self) -> Llama:
        return self._given.packed if self._packed else self._given

    @property
    def form(self) -> Form:
        return find_form(self.model.shape, self.model.dtype, self.model.device)


@dataclass(eq=False)
class _Prompt:
    """A prompt on its way into a cache, for all requests that have it. kv: its keys and values. fed: of how
    many of its tokens; cached: of how many they were known before."""

    tokens: tuple[int, ...]
    scoring: Scoring
    requests: list[Request]
    kv: torch.Tensor
    fed: int
    scores: Scores
    cached: int

    @property
    def alive(self) -> bool:
        return any(not r.future.cancelled() for r in self.requests)


@dataclass(eq=False)
class _Row:
    """A sequence being sampled. scores, cached: of its prompt. uniforms: one in [0, 1) a position, from
    (seed, sample) alone. likeliest: of each position, ids and log-probabilities."""

    request: Request
    sample: int
    scores: Scores
    cached: int
    uniforms: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    pool: Pool[_Row] | None = None
    place: int = -1

    @property
    def length(self) -> int:
        """Tokens in the cache: the prompt and all sampled ones but the last."""
        return len(self.request.prompt) + len(self.tokens) - 1


@dataclass(frozen=True, eq=False)
class _Start:
    """A row to be: its prompt's keys and values, and the logits [vocab] of its first token."""

    row: _Row
    kv: torch.Tensor
    logits: torch.Tensor


class Decoder:
    """Decodes all requests on one snapshot of the weights together. Used from one thread.

    place: in the engine's order; the lowest is served first.
    """

    def __init__(self, kit: Kit, lora: Lora, place: int = 0) -> None:
        self.kit, self.place, self.prefixes = kit, place, Prefixes()
        self._factors = lora.factors(kit.model.shape.layers, kit.model.dtype)
        self._waiting: list[Request] = []
        self._prompts: list[_Prompt] = []
        self._starts: list[_Start] = []
        self._pools: dict[int, Pool[_Row]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._prompts or self._starts or self._rows())

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def abandon(self, error: BaseException) -> None:
        """Fails every request that isn't answered yet."""
        requests = [*self._waiting, *(r for p in self._prompts for r in p.requests)]
        requests += [row.request for row in [*self._rows(), *(s.row for s in self._starts)]]
        self._waiting, self._prompts, self._starts, self._pools = [], [], [], {}
        for request in {id(r): r for r in requests}.values():
            if not request.future.done() and request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)

    @torch.inference_mode()
    def step(self) -> None:
        """Lets cancelled requests go and new ones in, feeds prompts, and samples a token for every row."""
        self._let_go()
        self._admit()
        rows, logits = self._forward()
        begun = self._starts[: max(0, _ROWS - len(rows))]
        if begun:
            rows += [start.row for start in begun]
            logits = torch.cat([logits, torch.stack([start.logits for start in begun])])
        if rows:
            going_on = self._sample(rows, logits)
            self._place([(start.row, start.kv) for start in begun if start.row in going_on])
        del self._starts[: len(begun)]  # only now: until they have places, `abandon` must find them here
        self._pools = {room: pool for room, pool in self._pools.items() if pool.rows}

    def _rows(self) -> list[_Row]:
        return [row for pool in self._pools.values() for row in pool.rows]

    def _let_go(self) -> None:
        for row in self._rows():
            if row.request.future.cancelled() and row.pool is not None:
                row.pool.remove(row)
        self._waiting = [r for r in self._waiting if not r.future.cancelled()]
        self._prompts = [p for p in self._prompts if p.alive]
        self._starts = [s for s in self._starts if not s.row.request.future.cancelled()]

    # Prompts

    def _admit(self) -> None:
        """Prompts begin in order, as many as a pass can feed. One whose next block another is at waits for
        it; one that is asked for twice is fed once."""
        same = {(p.tokens, p.scoring): p for p in self._prompts}
        coming = {self._known(p.tokens, p.scoring)[1] for p in self._prompts}
        unfed = sum(len(p.tokens) - p.fed for p in self._prompts)
        later = []
        for request in self._waiting:
            if prompt := same.get((request.prompt, request.scoring)):
                prompt.requests.append(request)
                continue
            if unfed >= _PASS_TOKENS or self._full():
                later.append(request)
                continue
            blocks, key = self._known(request.prompt, request.scoring)
            if len(key[1]) == BLOCK and key in coming:
                later.append(request)
                continue
            prompt = self._begin(request, blocks)
            self._prompts.append(prompt)
            same[prompt.tokens, prompt.scoring] = prompt
            coming.add(key)
            unfed += len(prompt.tokens) - prompt.fed
        self._waiting = later

    def _known(self, tokens: tuple[int, ...], scoring: Scoring) -> tuple[list[torch.Tensor], Key]:
        """Of a prompt, what need not be fed: the last token must, and so must those that tell the scores."""
        return self.prefixes.find(tokens[: max(0, len(tokens) - 1 - scoring.last_n)])

    def _full(self) -> bool:
        held = [x.kv for x in (*self._pools.values(), *self._prompts, *self._starts)]
        return sum(kv.nbytes for kv in {id(kv): kv for kv in held}.values()) > _CACHE_BYTES

    def _begin(self, request: Request, blocks: list[torch.Tensor]) -> _Prompt:
        s, length, known = self.kit.model.shape, len(request.prompt), len(blocks) * BLOCK
        kv = torch.zeros(
            (s.layers, 2 * s.kv_heads, capacity(length), s.head_dim),
            dtype=self.kit.model.dtype,
            device=self.kit.model.device,
        )
        if blocks:
            torch.cat(blocks, dim=2, out=kv[:, :, :known])
        scores = Scores.empty(length, request.scoring.top_k)
        return _Prompt(request.prompt, request.scoring, [request], kv, known, scores, known)

    def _finish(self, prompt: _Prompt, logits: torch.Tensor) -> None:
        """logits: [vocab], after the prompt."""
        for request in prompt.requests:
            if request.future.cancelled():
                continue
            if not request.num_samples:
                request.answer(prompt.scores, prompt.cached)
            for sample in range(request.num_samples):
                key = np.array([request.seed % 2**64, sample], dtype=np.uint64)
                uniforms = np.random.Generator(np.random.Philox(key=key)).random(request.max_tokens)
                row = _Row(request, sample, prompt.scores, prompt.cached, uniforms)
                self._starts.append(_Start(row, prompt.kv, logits))

    # A pass

    def _forward(self) -> tuple[list[_Row], torch.Tensor]:
        """Feeds each row its last token, and prompts what else fits. Returns the rows, and the logits of
        their next tokens [rows, vocab]; the rows of the prompts that are through go to the starts."""
        model, form = self.kit.model, self.kit.form
        self._make_room()
        rows = self._rows()
        fed = self._portions(max(1, _PASS_TOKENS - len(rows)))
        ids = [row.tokens[-1] for row in rows]
        positions = [row.length for row in rows]
        portions: list[Portion] = [
            Decoded(pool.kv, [row.length for row in pool.rows], form)
            for pool in self._pools.values()
            if pool.rows
        ]
        for prompt, count in fed:
            ids += prompt.tokens[prompt.fed : prompt.fed + count]
            positions += range(prompt.fed, prompt.fed + count)
            portions.append(Prompt(prompt.kv, prompt.fed, count, model.shape.groups, form))
        if not ids:
            return [], torch.empty(0, model.shape.vocab, device=model.device)
        padding = [0] * (row_ops.even(len(ids)) - len(ids))
        hidden = model.hidden(
            torch.tensor(ids + padding, device=model.device),
            torch.tensor(positions + padding, device=model.device),
            self._factors,
            side_by_side(portions),
            row_ops,
        )
        ends = self._advance(fed, hidden[len(rows) :])
        if not rows and not ends:
            return [], hidden.new_empty(0, model.shape.vocab)
        at = torch.tensor([*range(len(rows)), *(len(rows) + end for end in ends)], device=model.device)
        logits = model.logits(hidden[at], row_ops.product)
        for prompt, found in zip(ends.values(), logits[len(rows) :], strict=True):
            self._finish(prompt, found)
        return rows, logits[: len(rows)]

    def _portions(self, room: int) -> list[tuple[_Prompt, int]]:
        """Which prompts are fed in the next pass, and how many of their tokens."""
        fed = []
        for prompt in self._prompts:
            if count := min(room, len(prompt.tokens) - prompt.fed):
                fed.append((prompt, count))
                room -= count
        return fed

    def _advance(self, fed: list[tuple[_Prompt, int]], hidden: torch.Tensor) -> dict[int, _Prompt]:
        """Books what a pass has fed. hidden: of the tokens fed, one prompt's after another's. Returns the
        prompts that are through, by the place of their last token."""
        ends, first = {}, 0
        for prompt, count in fed:
            self._score(prompt, hidden[first : first + count])
            prompt.fed += count
            first += count
            self.prefixes.keep(prompt.tokens[: prompt.fed], prompt.kv)
            if prompt.fed == len(prompt.tokens):
                ends[first - 1] = prompt
        self._prompts = [p for p in self._prompts if p.fed < len(p.tokens)]
        return ends

    def _score(self, prompt: _Prompt, hidden: torch.Tensor) -> None:
        """The log-probabilities of the tokens that come after those just fed, where they are wanted."""
        begin = max(prompt.fed, len(prompt.tokens) - 1 - prompt.scoring.last_n)
        end, k = min(prompt.fed + len(hidden), len(prompt.tokens) - 1), prompt.scoring.top_k
        for at in range(begin, end, _SCORED_ROWS):
            to = min(at + _SCORED_ROWS, end)
            logits = self.kit.model.logits(hidden[at - prompt.fed : to - prompt.fed], row_ops.product)
            tokens = torch.tensor(prompt.tokens[at + 1 : to + 1], device=logits.device)[:, None]
            after = slice(at + 1, to + 1)
            prompt.scores.logprobs[after] = log_probabilities(logits, tokens)[:, 0].cpu().numpy()
            if k:
                ids, logprobs = likeliest(logits, k)
                prompt.scores.top.token_ids[after] = ids.cpu().numpy()
                prompt.scores.top.logprobs[after] = logprobs.cpu().numpy()

    # Rows

    def _make_room(self) -> None:
        """Rows that fill their pool move to a longer one."""
        moving = []
        for row in self._rows():
            assert row.pool is not None
            if row.length == row.pool.capacity:
                moving.append((row, row.pool.read(row).clone()))
                row.pool.remove(row)
        self._place(moving)

    def _place(self, rows: list[tuple[_Row, torch.Tensor]]) -> None:
        """Each with the keys and values of its tokens so far."""
        by_room: dict[int, list[tuple[_Row, torch.Tensor]]] = {}
        for row, kv in rows:
            by_room.setdefault(capacity(row.length + 1), []).append((row, kv))
        for room, some in by_room.items():
            pool = self._pools.setdefault(room, Pool(room, some[0][1]))
            pool.add(some)
            for row, _ in some:
                row.pool = pool

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> set[_Row]:
        """A token for each row; those that end give their answers. Returns those that go on."""
        device, asked = logits.device, [row.request for row in rows]
        truncation = []
        if any(r.top_k > 0 or r.top_p < 1 for r in asked):
            truncation.append(torch.tensor([r.top_k for r in asked], device=device))
            truncation.append(torch.tensor([r.top_p for r in asked], dtype=torch.float64, device=device))
        chosen, logprobs = choose(
            logits,
            torch.tensor([r.temperature for r in asked], device=device),
            torch.tensor([row.uniforms[len(row.tokens)] for row in rows], dtype=torch.float64).to(device),
            *truncation,
        )
        for i, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), logprobs.tolist(), strict=True)):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if k := row.request.sample_top_k:
                ids, found = likeliest(logits[i : i + 1], k)
                row.likeliest.append((ids[0].cpu().numpy(), found[0].cpu().numpy()))
        return {row for row in rows if not self._ended(row)}

    def _ended(self, row: _Row) -> bool:
        request = row.request
        if row.tokens[-1] in request.stop_ids or self._stop_text(row):
            reason = "stop"
        elif len(row.tokens) == request.max_tokens:
            reason = "length"
        else:
            return False
        if row.pool is not None:
            tokens = [*request.prompt, *row.tokens[:-1]]
            self.prefixes.keep(tokens, row.pool.read(row))
            row.pool.remove(row)
        top = [np.array(x) for x in zip(*row.likeliest, strict=True)]
        request.finished[row.sample] = tinker.SampledSequence(
            stop_reason=reason,
            sequence_id=f"{request.seed:x}-{row.sample}",
            tokens_np=np.array(row.tokens, dtype=np.int32),
            logprobs_np=np.array(row.logprobs, dtype=np.float32),
            topk_logprobs_np=TopkLogprobs(top[0].astype(np.int32), top[1]) if top else None,
        )
        request.answer(row.scores, row.cached)
        return True

    def _stop_text(self, row: _Row) -> bool:
        """A token holds a byte at least, so a stop of b bytes lies within the last b tokens; 3 more, so
        that a character cut at the window's edge can't hide it."""
        return any(
            text in self.kit.decode_text(row.tokens[-len(text.encode()) - 3 :])
            for text in row.request.stop_texts
        )
