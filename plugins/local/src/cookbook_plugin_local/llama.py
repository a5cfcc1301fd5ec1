"""The forward pass of Llama, Qwen2 and Qwen3 over rows of tokens, with a LoRA beside every weight. No
padding, no batch dimension: the caller says what each row attends to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

from cookbook.errors import BackendError

from .shape import LlamaShape as LlamaShape  # exported from here too

# attend(layer, q [N, heads, D], k [N, kv_heads, D], v [N, kv_heads, D]) -> [N, heads, D]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
_FUSED = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))  # modules with one input share a product
_ONE_THREAD = 32768  # entries up to which torch gives an elementwise operation to one thread


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


@dataclass(frozen=True)
class _Layer:
    """weights: of the modules of each group of `_FUSED`. norms: before attention and before the MLP.
    bias: of q, k and v together, None where there is none. qk_norms: of a head's query and key, or none."""

    weights: list[torch.Tensor]
    norms: list[torch.Tensor]
    bias: torch.Tensor | None
    qk_norms: list[torch.Tensor]

    @classmethod
    def of(
        cls, layer: int, shape: LlamaShape, read: Callable[[str], torch.Tensor], dtype: torch.dtype
    ) -> _Layer:
        at = f"model.layers.{layer}"
        weights = [
            torch.cat([read(f"{at}.self_attn.{m}_proj.weight") for m in "qkv"]),
            read(f"{at}.self_attn.o_proj.weight"),
            torch.cat([read(f"{at}.mlp.{m}_proj.weight") for m in ("gate", "up")]),
            read(f"{at}.mlp.down_proj.weight"),
        ]
        norms = [read(f"{at}.{name}_layernorm.weight") for name in ("input", "post_attention")]
        biases = [read(f"{at}.self_attn.{m}_proj.bias") for m in "qkv"] if shape.qkv_bias else []
        qk_norms = [read(f"{at}.self_attn.{m}_norm.weight") for m in "qk"] if shape.qk_norm else []
        return cls(
            [w.to(dtype) for w in weights],
            [n.float() for n in norms],
            torch.cat(biases).to(dtype) if biases else None,
            [n.float() for n in qk_norms],
        )


class Llama:
    """The frozen weights, once, for sampling and training."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.shape, self.dtype = LlamaShape.of(folder), dtype
        read = _weights(folder)
        self.embedding = read("model.embed_tokens.weight").to(dtype)
        self.unembedding = self.embedding if self.shape.tied else read("lm_head.weight").to(dtype)
        self.final_norm = read("model.norm.weight").float()
        self.layers = [_Layer.of(i, self.shape, read, dtype) for i in range(self.shape.layers)]
        self._frequencies = self.shape.rope.frequencies(self.shape.head_dim)

    def hidden(
        self,
        ids_N: torch.Tensor,
        positions_N: torch.Tensor,
        factors: list[list[tuple[torch.Tensor, torch.Tensor]]],
        attend: Attend,
        *,
        rows: int = 0,
    ) -> torch.Tensor:
        """Final hidden states [N, hidden] in the weights' dtype.

        Products run in that dtype; the residual stream, the norms and the rotation in float32. With
        `rows`, each product has exactly so many: which kernel a product library takes, and so how it
        rounds, depends on the number of rows, but not on where among them a row stands. A token's bits
        then don't depend on what is computed beside it.
        """
        s, n = self.shape, len(ids_N)
        ids_N, positions_N = _even(ids_N, rows), _even(positions_N, rows)
        angle = positions_N[:, None].float() * self._frequencies
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x = F.embedding(ids_N, self.embedding).float()
        for i, layer in enumerate(self.layers):
            (qkv, o, gate_up, down), (norm1, norm2) = layer.weights, layer.norms
            f_qkv, f_o, f_gate_up, f_down = factors[i]
            y = _linear(self._norm(x, norm1), qkv, f_qkv, rows)
            y = y if layer.bias is None else y + layer.bias
            q, k, v = y.split([n * s.head_dim for n in (s.heads, s.kv_heads, s.kv_heads)], dim=-1)
            q, k = q.view(-1, s.heads, s.head_dim), k.view(-1, s.kv_heads, s.head_dim)
            if layer.qk_norms:
                norm_q, norm_k = layer.qk_norms
                q, k = self._norm(q.float(), norm_q), self._norm(k.float(), norm_k)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            y = attend(i, q[:n], k[:n], v.view(-1, s.kv_heads, s.head_dim)[:n])
            x = x + _linear(_even(y.reshape(n, -1), rows), o, f_o, rows)
            gate, up = _linear(self._norm(x, norm2), gate_up, f_gate_up, rows).chunk(2, dim=-1)
            x = x + _linear(_silu(gate, rows) * up, down, f_down, rows)
        return self._norm(x, self.final_norm)[:n]

    def logits(self, hidden_R: torch.Tensor, *, rows: int = 0) -> torch.Tensor:
        """float32 [R, vocab]; `rows` as in `hidden`."""
        return _product(_even(hidden_R, rows), self.unembedding, rows)[: len(hidden_R)].float()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.eps).to(self.dtype)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, factor: tuple[torch.Tensor, torch.Tensor], rows: int
) -> torch.Tensor:
    """The adapter stays apart: merged into bf16 weights, most of a small update would be rounded away."""
    a, b = factor
    return _product(x, weight, rows) + _product(_product(x, a, rows), b, rows)


def _product(x: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    if not rows or len(x) == rows:
        return F.linear(x, weight)
    return torch.cat([F.linear(part, weight) for part in x.split(rows)])


def _silu(x: torch.Tensor, rows: int) -> torch.Tensor:
    """With `rows`, in pieces small enough for one thread: where several share a tensor, the entries at
    their borders go through scalar code, which rounds otherwise than vector code."""
    if not rows:
        return F.silu(x)
    return torch.cat([F.silu(part) for part in x.split(max(1, _ONE_THREAD // x.shape[-1]))])


def _even(x: torch.Tensor, rows: int) -> torch.Tensor:
    """Zeros appended up to a multiple of `rows`."""
    extra = -len(x) % rows if rows else 0
    return torch.cat([x, x.new_zeros((extra, *x.shape[1:]))]) if extra else x


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [N, heads, D], the two halves of D as the pairs (Su et al. 2021)."""
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
