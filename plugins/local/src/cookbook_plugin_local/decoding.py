"""Sampling with a cache of keys and values. Requests join and leave at every step.

What a request gets depends on its weights, tokens and seed only, never on what is decoded beside it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import tinker
import torch
import torch.nn.functional as F

from cookbook.errors import ConfigError

from .llama import Llama, LlamaShape, Lora

_CHUNK = 32  # cache lengths grow by this many tokens
_BLOCK = 256  # vocabulary entries in a block of the two-level inverse CDF
_PROMPT_TOKENS_KEPT = 16384
_PREFILL_TOKENS = 4096  # in one pass, unless a single prompt is longer: bounds memory, changes no bits
# Rows of every product while decoding, and while prefilling. Fewer would make a single request faster,
# more would make large batches faster; see `Llama.hidden` for why they are fixed.
DECODE_ROWS, PREFILL_ROWS = 128, 256


@dataclass(frozen=True)
class Request:
    """One call of `sample`. stop_ids: end a sequence; stop_texts: likewise, wherever token borders lie."""

    prompt: tuple[int, ...]
    num_samples: int
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    future: Future[tinker.SampleResponse]
    finished: dict[int, tinker.SampledSequence] = field(default_factory=dict)


@dataclass
class _Row:
    """A sequence being sampled. uniforms: one in [0, 1) a position, from (seed, sample) alone."""

    request: Request
    sample: int
    uniforms: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in the cache: the prompt and all sampled ones but the last."""
        return len(self.request.prompt) + len(self.tokens) - 1


@dataclass(frozen=True)
class _Prefill:
    """keys, values: [layers, kv_heads, T, D]. logits: float32 [vocab], after the last token."""

    keys: torch.Tensor
    values: torch.Tensor
    logits: torch.Tensor


class Decoder:
    """Decodes all requests on one snapshot of the weights together. Used from one thread.

    place: in the engine's order; the lowest is served first.
    """

    def __init__(
        self, model: Llama, lora: Lora, decode_text: Callable[[Sequence[int]], str], place: int = 0
    ) -> None:
        self.model, self._decode_text, self.place = model, decode_text, place
        self.factors = lora.factors(model.shape.layers, model.dtype)
        self._waiting: list[Request] = []
        self._rows: list[_Row] = []
        self._prompts: OrderedDict[tuple[int, ...], _Prefill] = OrderedDict()
        s = model.shape
        self._cache = torch.empty((s.layers, 2, 0, s.kv_heads, 0, s.head_dim), dtype=model.dtype)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._rows)

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def abandon(self, error: BaseException) -> None:
        """Fails every request that isn't answered yet."""
        requests = {id(r): r for r in [*self._waiting, *(row.request for row in self._rows)]}
        self._waiting, self._rows = [], []
        self._rest()
        for request in requests.values():
            if not request.future.done() and request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)

    @torch.inference_mode()
    def step(self) -> None:
        """Lets cancelled requests go and new ones in, then samples one token for every row."""
        self._keep([i for i, row in enumerate(self._rows) if not row.request.future.cancelled()])
        self._waiting = [r for r in self._waiting if not r.future.cancelled()]
        logits = [self._decode()] if self._rows else []
        if self._waiting:
            logits.append(self._join(self._waiting))
            self._waiting = []  # only now: until they have rows, `abandon` must find them here
        if self._rows:
            self._sample(torch.cat(logits) if len(logits) > 1 else logits[0])
        if not self._rows:
            self._rest()

    def _rest(self) -> None:
        """A snapshot without rows keeps no memory."""
        self._cache = self._cache[:, :, :0, :, :0].clone()
        self._prompts.clear()

    def _join(self, requests: list[Request]) -> torch.Tensor:
        """A row for each sample of each request, on one prefill a distinct prompt. Returns their logits."""
        for prompts in _parts(
            [p for p in dict.fromkeys(r.prompt for r in requests) if p not in self._prompts]
        ):
            self._prefill(prompts)
        rows = len(self._rows) + sum(r.num_samples for r in requests)
        self._reserve(rows, max(len(r.prompt) for r in requests) + 1)
        logits = []
        for request in requests:
            prefill = self._prompts[request.prompt]
            self._prompts.move_to_end(request.prompt)
            length = prefill.keys.shape[2]
            at = slice(len(self._rows), len(self._rows) + request.num_samples)
            self._cache[:, 0, at, :, :length] = prefill.keys[:, None]
            self._cache[:, 1, at, :, :length] = prefill.values[:, None]
            for sample in range(request.num_samples):
                key = np.array([request.seed % 2**64, sample], dtype=np.uint64)
                generator = np.random.Generator(np.random.Philox(key=key))
                self._rows.append(_Row(request, sample, generator.random(request.max_tokens)))
                logits.append(prefill.logits)
        while sum(map(len, self._prompts)) > _PROMPT_TOKENS_KEPT:
            self._prompts.popitem(last=False)
        return torch.stack(logits)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> None:
        """Runs prompts through the model side by side; each attends to itself alone."""
        lengths = [len(p) for p in prompts]
        ids = torch.tensor([token for p in prompts for token in p])
        positions = torch.cat([torch.arange(n) for n in lengths])
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            kept.append((k, v))
            return attend_each(lengths, q, k, v)

        hidden = self.model.hidden(ids, positions, self.factors, attend, rows=PREFILL_ROWS)
        last = torch.tensor(lengths).cumsum(0) - 1
        logits = self.model.logits(hidden[last], rows=DECODE_ROWS)
        keys, values = (torch.stack(side).split(lengths, dim=1) for side in zip(*kept, strict=True))
        for prompt, k, v, row in zip(prompts, keys, values, logits, strict=True):
            self._prompts[prompt] = _Prefill(
                k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous(), row
            )

    def _reserve(self, rows: int, length: int) -> None:
        """Room for so many rows of so many tokens; what is there stays."""
        _, _, have_rows, _, have_length, _ = self._cache.shape
        if rows <= have_rows and length <= have_length:
            return
        if length > have_length:
            length = -(-max(length, have_length * 3 // 2) // _CHUNK) * _CHUNK
        rows, length = max(have_rows, -(-rows // 16) * 16), max(have_length, length)
        layers, two, _, heads, _, dim = self._cache.shape
        # Zeros, not garbage: masked keys are multiplied by an exact 0, which garbage can turn into NaN.
        grown = self._cache.new_zeros((layers, two, rows, heads, length, dim))
        grown[:, :, :have_rows, :, :have_length] = self._cache
        self._cache = grown

    def _decode(self) -> torch.Tensor:
        """Feeds each row's last token; float32 logits [rows, vocab]."""
        n = len(self._rows)
        lengths = torch.tensor([row.length for row in self._rows])
        longest = int(lengths.max()) + 1
        self._reserve(n, longest)
        ids, at = torch.tensor([row.tokens[-1] for row in self._rows]), torch.arange(n)
        seen = -(-longest // _CHUNK) * _CHUNK
        mask = torch.zeros((n, 1, 1, seen), dtype=self.model.dtype)
        mask.masked_fill_(torch.arange(seen) > lengths[:, None, None, None], float("-inf"))
        cache, shape = self._cache, self.model.shape
        groups = shape.heads // shape.kv_heads

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache[layer, 0][at, :, lengths] = k
            cache[layer, 1][at, :, lengths] = v
            # The query heads that share a key head stand as queries of one head.
            q = q.view(n, shape.kv_heads, groups, shape.head_dim)
            keys, values = cache[layer, 0, :n, :, :seen], cache[layer, 1, :n, :, :seen]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).reshape(n, shape.heads, -1)

        hidden = self.model.hidden(ids, lengths, self.factors, attend, rows=DECODE_ROWS)
        return self.model.logits(hidden, rows=DECODE_ROWS)

    def _sample(self, logits: torch.Tensor) -> None:
        temperatures = torch.tensor([row.request.temperature for row in self._rows])
        uniforms = torch.tensor([row.uniforms[len(row.tokens)] for row in self._rows], dtype=torch.float64)
        chosen, logprobs = choose(logits, temperatures, uniforms)
        for row, token, logprob in zip(self._rows, chosen.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
        self._keep([i for i, row in enumerate(self._rows) if not self._ended(row)])

    def _ended(self, row: _Row) -> bool:
        request = row.request
        if row.tokens[-1] in request.stop_ids or self._stop_text(row):
            reason = "stop"
        elif len(row.tokens) == request.max_tokens:
            reason = "length"
        else:
            return False
        request.finished[row.sample] = tinker.SampledSequence(
            stop_reason=reason,
            sequence_id=f"{request.seed:x}-{row.sample}",
            tokens_np=np.array(row.tokens, dtype=np.int32),
            logprobs_np=np.array(row.logprobs, dtype=np.float32),
        )
        if len(request.finished) == request.num_samples and request.future.set_running_or_notify_cancel():
            ordered = [request.finished[i] for i in range(request.num_samples)]
            request.future.set_result(tinker.SampleResponse(sequences=ordered))
        return True

    def _stop_text(self, row: _Row) -> bool:
        """A token holds a byte at least, so a stop of b bytes lies within the last b tokens; 3 more, so
        that a character cut at the window's edge can't hide it."""
        return any(
            text in self._decode_text(row.tokens[-len(text.encode()) - 3 :])
            for text in row.request.stop_texts
        )

    def _keep(self, alive: list[int]) -> None:
        """Moves the rows that go on to the front of the cache: the last ones into the gaps."""
        n, staying = len(alive), set(alive)
        gaps = [i for i in range(n) if i not in staying]
        movers = [i for i in alive if i >= n]
        for gap, mover in zip(gaps, movers, strict=True):
            self._cache[:, :, gap] = self._cache[:, :, mover]
            self._rows[gap] = self._rows[mover]
        del self._rows[n:]


def _parts(prompts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Prompts in their order, in passes of at most `_PREFILL_TOKENS`."""
    parts: list[list[tuple[int, ...]]] = []
    room = 0
    for prompt in prompts:
        if len(prompt) > room:
            parts.append([])
            room = _PREFILL_TOKENS
        parts[-1].append(prompt)
        room -= len(prompt)
    return parts


def attend_each(lengths: list[int], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of sequences that stand side by side, each by itself."""
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    return torch.cat([_causal(*part) for part in parts])


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of one token a row under the raw distribution, float32 [n]; rounded as `choose` rounds them.

    logits: float32 [n, vocab]; tokens: int64 [n].
    """
    top = logits.amax(-1, keepdim=True)
    _, blocks = _blocks((logits - top).exp_())
    return logits[torch.arange(len(logits)), tokens] - top[:, 0] - blocks[:, -1].log().float()


def choose(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by the inverse CDF of softmax(logits / temperature); the largest at temperature 0.

    logits: float32 [n, vocab]; temperatures: float32 [n]; uniforms: float64 [n] in [0, 1). Returns the
    tokens, int64 [n], and their log-probabilities under the raw distribution, at temperature 1 whatever
    the temperature, float32 [n]. Two levels, blocks and then entries, so that no running sum over the
    whole vocabulary is needed.
    """
    at, greedy = torch.arange(len(logits)), temperatures == 0
    top = logits.amax(-1, keepdim=True)
    weights, blocks = _blocks((logits - top).exp_())
    log_total = blocks[:, -1].log().float()
    if not bool((temperatures == 1).all()):
        weights, blocks = _blocks(((logits - top) / temperatures.where(~greedy, 1)[:, None]).exp_())
    target = _below(uniforms * blocks[:, -1], blocks[:, -1])
    block = (blocks <= target[:, None]).sum(-1)
    before = torch.where(block > 0, blocks[at, (block - 1).clamp(min=0)], 0.0)
    entries = weights[at, block].double().cumsum(-1)
    entry = (entries <= _below(target - before, entries[:, -1])[:, None]).sum(-1)
    chosen = block * _BLOCK + entry
    if bool(greedy.any()):
        chosen = torch.where(greedy, logits.argmax(-1), chosen)
    return chosen, logits[at, chosen] - top[:, 0] - log_total


def _blocks(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, vocab] as [n, blocks, _BLOCK], and the running sums over blocks, float64 [n, blocks]. A sum
    straight over the vocabulary would be split among threads where n is 1, and so rounded otherwise."""
    pad = -weights.shape[-1] % _BLOCK
    weights = F.pad(weights, (0, pad)) if pad else weights
    weights = weights.view(len(weights), weights.shape[-1] // _BLOCK, _BLOCK)
    return weights, weights.sum(-1).double().cumsum(-1)


def _below(x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """x, or the number just under the bound where rounding put x on it: an entry of probability 0 is
    never reached."""
    return torch.minimum(x, torch.nextafter(bound, torch.zeros_like(bound)))


def prompt_ids(prompt: tinker.ModelInput, shape: LlamaShape) -> tuple[int, ...]:
    """Raises `ConfigError` for no tokens, and for tokens that the model doesn't have."""
    ids = tuple(prompt.to_ints())
    if not ids:
        raise ConfigError("a prompt of 0 tokens: must be 1 or more")
    if not 0 <= min(ids) <= max(ids) < shape.vocab:
        raise ConfigError(
            f"prompt tokens from {min(ids)} to {max(ids)}: the model has 0 to {shape.vocab - 1}"
        )
    return ids


def new_request(
    prompt: tinker.ModelInput,
    num_samples: int,
    params: tinker.SamplingParams,
    shape: LlamaShape,
) -> Request:
    """A request from tinker's types. Raises `ConfigError` for what can't be sampled."""
    ids, stop = prompt_ids(prompt, shape), params.stop
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: must be 1 or more")
    if params.top_k != -1 or params.top_p != 1:
        raise ConfigError(
            f"local/torch samples the whole distribution: top_k={params.top_k}, top_p={params.top_p} "
            "must be -1 and 1"
        )
    if not params.temperature >= 0:
        raise ConfigError(f"temperature={params.temperature}: must be 0 (greedy) or more")
    room = shape.context - len(ids)
    max_tokens = room if params.max_tokens is None else params.max_tokens
    if not 1 <= max_tokens <= room:
        raise ConfigError(
            f"{len(ids)} prompt tokens and max_tokens={max_tokens} don't fit in {shape.context} of context"
        )
    stops = list(shape.eos) if stop is None else [stop] if isinstance(stop, str) else list(stop)
    return Request(
        prompt=ids,
        num_samples=num_samples,
        max_tokens=max_tokens,
        temperature=params.temperature,
        seed=secrets.randbits(62) if params.seed is None else params.seed,
        stop_ids=frozenset(s for s in stops if isinstance(s, int)),
        stop_texts=tuple(s for s in stops if isinstance(s, str)),
        future=Future(),
    )
