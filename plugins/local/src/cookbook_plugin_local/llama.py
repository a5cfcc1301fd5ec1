"""Llama's forward pass over rows of tokens, with a LoRA beside every weight. No padding, no batch
dimension: the caller says what each row attends to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch.utils.checkpoint import checkpoint

from cookbook.errors import BackendError

from . import ops

# attend(layer, q [N, heads, D], k [N, kv_heads, D], v [N, kv_heads, D]) -> [N, heads, D]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Factors = list[tuple[torch.Tensor, torch.Tensor]]  # of a layer: A and B of each group of modules
Angles = tuple[torch.Tensor, torch.Tensor]  # cosine and sine, [N, 1, D / 2]

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
_FUSED = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))  # modules with one input share a product
_ONE_THREAD = 32768  # entries up to which torch gives an elementwise operation to one thread


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of config.json."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    eps: float
    theta: float
    eos: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> LlamaShape:
        """Raises `BackendError` for a model that isn't a Llama, scales its rotation, or has biases."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        kind = rope.get("rope_type") or rope.get("type") or "default"  # "type": as older files say it
        bias = bool(config.get("attention_bias") or config.get("mlp_bias"))
        if config.get("model_type") != "llama" or kind != "default" or bias:
            raise BackendError(
                f"{folder}: local/torch runs Llama models with plain rope and without biases, this is "
                f"{config.get('model_type')!r}, rope {kind!r}, biases {bias}"
            )
        eos = config.get("eos_token_id")
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            eps=config["rms_norm_eps"],
            theta=rope.get("rope_theta") or config.get("rope_theta", 10000.0),
            eos=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        )

    def sizes(self, module: str) -> tuple[int, int]:
        """(out, in) of a module's weight."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        out_in = {
            "q": (q, self.hidden),
            "k": (kv, self.hidden),
            "v": (kv, self.hidden),
            "o": (self.hidden, q),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }
        return out_in[module]


@dataclass(frozen=True)
class Lora:
    """Low-rank updates W + (alpha / rank) B A of every attention and MLP weight (Hu et al. 2021).

    parameters: {"3.q.A": [rank, in], "3.q.B": [out, rank]}, float32; layer 3's query here.
    """

    rank: int
    alpha: float
    parameters: Mapping[str, torch.Tensor]

    @classmethod
    def fresh(cls, shape: LlamaShape, rank: int, alpha: float, seed: int) -> Lora:
        """A uniform in +-1/sqrt(in), B zero: the model as it was, bit for bit."""
        generator = torch.Generator().manual_seed(seed)
        parameters = {name: torch.zeros(size) for name, size in cls.sizes(shape, rank).items()}
        for name, parameter in parameters.items():
            if name.endswith("A"):
                scale = math.sqrt(parameter.shape[1])
                parameter.copy_(torch.rand(parameter.shape, generator=generator).mul_(2).sub_(1).div_(scale))
            parameter.requires_grad_()
        return cls(rank, alpha, parameters)

    @staticmethod
    def sizes(shape: LlamaShape, rank: int) -> dict[str, tuple[int, int]]:
        """The names and shapes of all parameters, in the order that they always have."""
        sizes = {}
        for layer in range(shape.layers):
            for module in MODULES:
                out, fan_in = shape.sizes(module)
                sizes[f"{layer}.{module}.A"] = (rank, fan_in)
                sizes[f"{layer}.{module}.B"] = (out, rank)
        return sizes

    def snapshot(self) -> Lora:
        """These weights, as they are now."""
        return Lora(self.rank, self.alpha, {k: p.detach().clone() for k, p in self.parameters.items()})

    def factors(self, layers: int, dtype: torch.dtype) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """Per layer and group of modules with one input: A [k rank, in] and B [out, k rank], scaled.

        The B of a group is block-diagonal, so that a group costs two products. Differentiable.
        """
        scale = self.alpha / self.rank
        table = []
        for layer in range(layers):
            row = []
            for group in _FUSED:
                a = torch.cat([self.parameters[f"{layer}.{m}.A"] for m in group])
                b = torch.block_diag(*(self.parameters[f"{layer}.{m}.B"] for m in group))
                row.append((a.to(dtype), (b * scale).to(dtype)))
            table.append(row)
        return table


class Llama:
    """The frozen weights, once, for sampling and training."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.shape, self.dtype = LlamaShape.of(folder), dtype
        read = _weights(folder)
        self.embedding = read("model.embed_tokens.weight").to(dtype)
        tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", False)
        self.unembedding = self.embedding if tied else read("lm_head.weight").to(dtype)
        self.final_norm = read("model.norm.weight").float()
        self.layers = []
        for i in range(self.shape.layers):
            at = f"model.layers.{i}"
            weights = [
                torch.cat([read(f"{at}.self_attn.{m}_proj.weight") for m in "qkv"]),
                read(f"{at}.self_attn.o_proj.weight"),
                torch.cat([read(f"{at}.mlp.{m}_proj.weight") for m in ("gate", "up")]),
                read(f"{at}.mlp.down_proj.weight"),
            ]
            norms = read(f"{at}.input_layernorm.weight"), read(f"{at}.post_attention_layernorm.weight")
            self.layers.append(([w.to(dtype) for w in weights], [n.float() for n in norms]))
        half = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32) / self.shape.head_dim
        self._frequencies = self.shape.theta**-half

    def hidden(
        self,
        ids_N: torch.Tensor,
        positions_N: torch.Tensor,
        factors: list[Factors],
        attend: Attend,
        *,
        rows: int = 0,
        checkpointing: bool = False,
    ) -> torch.Tensor:
        """Final hidden states [N, hidden] in the weights' dtype.

        Products run in that dtype; the residual stream, the norms and the rotation in float32. With
        `rows`, each product has exactly so many: which kernel a product library takes, and so how it
        rounds, depends on the number of rows, but not on where among them a row stands. A token's bits
        then don't depend on what is computed beside it.

        With `checkpointing`, the gradient keeps what goes into each layer alone and computes the layer
        again.
        """
        s, n = self.shape, len(ids_N)
        ids_N, positions_N = _even(ids_N, rows), _even(positions_N, rows)
        angle = positions_N[:, None].float() * self._frequencies
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x = F.embedding(ids_N, self.embedding).float()
        for i in range(s.layers):
            args = i, x, (cos, sin), factors[i], attend, n, rows
            if checkpointing:
                x = checkpoint(self._layer, *args, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._layer(*args)
        return self._norm(x, self.final_norm, rows)[:n]

    def _layer(
        self, i: int, x: torch.Tensor, angles: Angles, factors: Factors, attend: Attend, n: int, rows: int
    ) -> torch.Tensor:
        """What goes into layer i [N, hidden] -> what comes out; of its rows, n aren't padding."""
        s = self.shape
        ((qkv, o, gate_up, down), (norm1, norm2)), (f_qkv, f_o, f_gate_up, f_down) = self.layers[i], factors
        y = _linear(self._norm(x, norm1, rows), qkv, f_qkv, rows)
        q, k, v = y.split([n * s.head_dim for n in (s.heads, s.kv_heads, s.kv_heads)], dim=-1)
        q = _rotate(q.view(-1, s.heads, s.head_dim), *angles, rows)
        k = _rotate(k.view(-1, s.kv_heads, s.head_dim), *angles, rows)
        y = attend(i, q[:n], k[:n], v.view(-1, s.kv_heads, s.head_dim)[:n])
        x = x + _linear(_even(y.reshape(n, -1), rows), o, f_o, rows)
        y = _gate(_linear(self._norm(x, norm2, rows), gate_up, f_gate_up, rows), rows)
        return x + _linear(y, down, f_down, rows)

    def logits(self, hidden_R: torch.Tensor, *, rows: int = 0) -> torch.Tensor:
        """float32 [R, vocab]; `rows` as in `hidden`."""
        return _product(_even(hidden_R, rows), self.unembedding, rows)[: len(hidden_R)].float()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
        if not rows:
            return ops.norm(x, weight, self.shape.eps, self.dtype)
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.eps).to(self.dtype)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, factor: tuple[torch.Tensor, torch.Tensor], rows: int
) -> torch.Tensor:
    """The adapter stays apart: merged into bf16 weights, most of a small update would be rounded away."""
    a, b = factor
    if not rows:
        return ops.linear(x, weight, a, b)
    return _product(x, weight, rows) + _product(_product(x, a, rows), b, rows)


def _product(x: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    if not rows or len(x) == rows:
        return F.linear(x, weight)
    return torch.cat([F.linear(part, weight) for part in x.split(rows)])


def _gate(gate_up: torch.Tensor, rows: int) -> torch.Tensor:
    """silu(gate) * up. With `rows`, in pieces small enough for one thread: where several share a tensor,
    the entries at their borders go through scalar code, which rounds otherwise than vector code."""
    if not rows:
        return ops.gate(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    pieces = gate.split(max(1, _ONE_THREAD // gate.shape[-1]))
    return torch.cat([F.silu(piece) for piece in pieces]) * up


def _even(x: torch.Tensor, rows: int) -> torch.Tensor:
    """Zeros appended up to a multiple of `rows`."""
    extra = -len(x) % rows if rows else 0
    return torch.cat([x, x.new_zeros((extra, *x.shape[1:]))]) if extra else x


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: int) -> torch.Tensor:
    """Rotary embedding of [N, heads, D], the two halves of D as the pairs (Su et al. 2021)."""
    if not rows:
        return ops.rotate(x, cos, sin)
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def _weights(folder: Path) -> Callable[[str], torch.Tensor]:
    """Reads a tensor by name from however many safetensors files there are."""
    where = {}
    for file in sorted(folder.glob("*.safetensors")):
        handle = safe_open(file, framework="pt")
        where.update(dict.fromkeys(handle.keys(), handle))

    def read(name: str) -> torch.Tensor:
        if name not in where:
            raise BackendError(f"{folder}: no tensor {name!r} in its safetensors files")
        return where[name].get_tensor(name)

    return read
