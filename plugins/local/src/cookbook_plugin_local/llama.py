"""The forward pass of Llama, Qwen2 and Qwen3 over rows of tokens, with a LoRA beside every weight. No
padding, no batch dimension: the caller says what each row attends to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch.utils.checkpoint import checkpoint

from cookbook.errors import BackendError

from . import ops, row_ops
from .shape import LlamaShape as LlamaShape  # exported from here too

# attend(layer, q [N, heads, D], k [N, kv_heads, D], v [N, kv_heads, D]) -> [N, heads, D]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

Factors = list[tuple[torch.Tensor, torch.Tensor]]  # of a layer: A and B of each group of modules
# Cosine and sine of a position's angles [N, 1, D], the sine with the sign that it has in its half of D
Angles = tuple[torch.Tensor, torch.Tensor]
_Read = Callable[[str], torch.Tensor]  # a tensor of the model's files by its name

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
_FUSED = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))  # modules with one input share a product


class Arithmetic(Protocol):
    """The parts of a layer. `ops` has those with a gradient, `row_ops` those whose rows are independent."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor: ...

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor: ...

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor: ...

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor: ...


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

    def to(self, device: torch.device) -> Lora:
        """The same on another device; itself where it is there."""
        found = {name: p.detach().to(device) for name, p in self.parameters.items()}
        here = all(found[name].device == p.device for name, p in self.parameters.items())
        return self if here else Lora(self.rank, self.alpha, found)

    def factors(self, layers: int, dtype: torch.dtype) -> list[Factors]:
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
    bias: of q, k and v together, or none. qk_norm: of each query and key head's entries
    [heads + kv_heads, D], or none."""

    weights: list[torch.Tensor]
    norms: list[torch.Tensor]
    bias: torch.Tensor | None
    qk_norm: torch.Tensor | None

    @classmethod
    def of(cls, at: str, shape: LlamaShape, read: _Read, dtype: torch.dtype) -> _Layer:
        """at: the layer's place among the names."""
        weights = [
            torch.cat([read(f"{at}.self_attn.{m}_proj.weight") for m in "qkv"]),
            read(f"{at}.self_attn.o_proj.weight"),
            torch.cat([read(f"{at}.mlp.{m}_proj.weight") for m in ("gate", "up")]),
            read(f"{at}.mlp.down_proj.weight"),
        ]
        norms = [read(f"{at}.{name}_layernorm.weight") for name in ("input", "post_attention")]
        biases = [read(f"{at}.self_attn.{m}_proj.bias") for m in "qkv"] if shape.qkv_bias else []
        heads = (shape.heads, shape.kv_heads) if shape.qk_norm else ()
        qk_norm = [
            read(f"{at}.self_attn.{m}_norm.weight").expand(n, -1) for m, n in zip("qk", heads, strict=False)
        ]
        return cls(
            [w.to(dtype) for w in weights],
            [n.float() for n in norms],
            torch.cat(biases).to(dtype) if biases else None,
            torch.cat(qk_norm).float() if qk_norm else None,
        )


class Llama:
    """The frozen weights, once, for sampling and training, on one device."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str = "cpu") -> None:
        self.shape, self.dtype = LlamaShape.of(folder), dtype
        read = _weights(folder, device)
        self.embedding = read("model.embed_tokens.weight").to(dtype)
        self.unembedding = self.embedding if self.shape.tied else read("lm_head.weight").to(dtype)
        self.final_norm = read("model.norm.weight").float()
        self.layers = [
            _Layer.of(f"model.layers.{i}", self.shape, read, dtype) for i in range(self.shape.layers)
        ]
        nothing = torch.empty(0, 1, self.shape.head_dim)
        self._angles: Angles = nothing, nothing

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @cached_property
    def packed(self) -> Llama:
        """The same model with a second copy of its weights, for `row_ops` on a processor; made once."""
        model = copy(self)
        model.unembedding = row_ops.packed(self.unembedding)
        model.layers = [
            replace(layer, weights=[row_ops.packed(w) for w in layer.weights]) for layer in self.layers
        ]
        return model

    def hidden(
        self,
        ids_N: torch.Tensor,
        positions_N: torch.Tensor,
        factors: Sequence[Factors],
        attend: Attend,
        arithmetic: Arithmetic = ops,
        *,
        checkpointing: bool = False,
    ) -> torch.Tensor:
        """Final hidden states [N, hidden] in the weights' dtype.

        Products run in that dtype; the residual stream, the norms and the rotation in float32. What each
        row attends to is the business of `attend`. With `checkpointing`, the gradient keeps what goes into
        each layer alone and computes the layer again.
        """
        angles = self._rotation(positions_N)
        x = F.embedding(ids_N, self.embedding).float()
        for i in range(self.shape.layers):
            args = i, x, angles, factors[i], attend, arithmetic
            if checkpointing:
                x = checkpoint(self._layer, *args, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._layer(*args)
        return arithmetic.norm(x, self.final_norm, self.shape.eps, self.dtype)

    def logits(
        self, hidden_R: torch.Tensor, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.linear
    ) -> torch.Tensor:
        """float32 [R, vocab]. product: as F.linear."""
        return product(hidden_R, self.unembedding).float()

    def _layer(
        self, i: int, x: torch.Tensor, angles: Angles, factors: Factors, attend: Attend, do: Arithmetic
    ) -> torch.Tensor:
        """What goes into layer i [N, hidden] -> what comes out."""
        s, layer, n = self.shape, self.layers[i], x.shape[0]
        (qkv, o, gate_up, down), (norm1, norm2) = layer.weights, layer.norms
        heads = s.heads + s.kv_heads  # those that are rotated
        y = do.linear(do.norm(x, norm1, s.eps, self.dtype), qkv, *factors[0])
        y = (y if layer.bias is None else y + layer.bias).view(n, heads + s.kv_heads, s.head_dim)
        qk = y[:, :heads]
        qk = qk if layer.qk_norm is None else do.norm(qk.float(), layer.qk_norm, s.eps, self.dtype)
        qk = do.rotate(qk, *angles)
        y = attend(i, qk[:, : s.heads], qk[:, s.heads :], y[:, heads:])
        x = x + do.linear(y.reshape(n, -1), o, *factors[1])
        y = do.gate(do.linear(do.norm(x, norm2, s.eps, self.dtype), gate_up, *factors[2]))
        return x + do.linear(y, down, *factors[3])

    def _rotation(self, positions_N: torch.Tensor) -> Angles:
        """From a table: where several threads share a tensor, the entries at their borders go through scalar
        code, whose cosine isn't always the vector code's."""
        if (longest := int(positions_N.max())) >= len(self._angles[0]):
            with torch.inference_mode(False):  # training will save what sampling made
                angle = torch.arange(max(1024, 2 * longest), dtype=torch.float32)[:, None]
                angle = angle * self.shape.rope.frequencies(self.shape.head_dim)
                cos, sin = angle.cos(), angle.sin()
                both = torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]
                self._angles = both[0].to(self.device), both[1].to(self.device)
        cos, sin = self._angles
        return cos[positions_N], sin[positions_N]


def _weights(folder: Path, device: str) -> _Read:
    """Reads a tensor by name from however many safetensors files there are."""
    where = {}
    for file in sorted(folder.glob("*.safetensors")):
        handle = safe_open(file, framework="pt", device=device)
        where.update(dict.fromkeys(handle.keys(), handle))

    def read(name: str) -> torch.Tensor:
        if name not in where:
            raise BackendError(f"{folder}: no tensor {name!r} in its safetensors files")
        return where[name].get_tensor(name)

    return read
