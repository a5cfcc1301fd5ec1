"""What config.json says of a model: its family, its sizes, its rotation, its end tokens.

The families are one architecture. Qwen2 adds biases to the queries, keys and values; Qwen3 norms each
head's query and key; Llama 3.1 and later slow the low frequencies of the rotation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cookbook.errors import BackendError

FAMILIES = ("llama", "qwen2", "qwen3")
"""Each as `model_type` in config.json, and as the architecture of a GGUF file."""

_ROPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rope:
    """The rotation's base, and the rescaling of its frequencies: a kind of `_ROPES` with its settings."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Rope:
        """From config.json: transformers 5 writes all as rope_parameters, older files rope_scaling.

        Raises `KeyError` for a setting that isn't there.
        """
        found = config.get("rope_scaling") or config.get("rope_parameters") or {}
        theta = found.get("rope_theta") or config.get("rope_theta", 10000.0)
        kind = found.get("rope_type") or found.get("type") or "default"  # "type": as older files say it
        if kind == "linear":
            return cls(theta, kind, found["factor"])
        if kind == "llama3":
            bounds = found["low_freq_factor"], found["high_freq_factor"]
            return cls(theta, kind, found["factor"], *bounds, found["original_max_position_embeddings"])
        return cls(theta, kind)

    def frequencies(self, head_dim: int) -> torch.Tensor:
        """Radians a position, float32 [head_dim / 2].

        theta^(-2i / head_dim) (Su et al. 2021). linear: all divided by the factor (Chen et al. 2023).
        llama3: those that turn less than low_freq_factor times in the original context are divided by
        the factor, those that turn more than high_freq_factor times stay, and the rest are a mean of
        both, weighted by where their number of turns lies between the two (Llama 3.1's model card).
        """
        plain = self.theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        if self.kind != "llama3":
            return plain / self.factor
        turns = self.original_context * plain / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of config.json. qkv_bias: Qwen2's; qk_norm: Qwen3's."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    eos: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> LlamaShape:
        """Raises `BackendError` for a model that would be computed wrongly, and for a config.json that
        lacks a size."""
        config = _read(folder / "config.json")
        if problem := _problem(config):
            raise BackendError(f"{folder}: local/torch can't run this model: {problem}")
        try:
            heads = config["num_attention_heads"]
            return cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                intermediate=config["intermediate_size"],
                vocab=config["vocab_size"],
                context=config["max_position_embeddings"],
                eps=config["rms_norm_eps"],
                rope=Rope.of(config),
                tied=bool(config.get("tie_word_embeddings")),
                qkv_bias=config["model_type"] == "qwen2",
                qk_norm=config["model_type"] == "qwen3",
                eos=_eos(folder, config),
            )
        except KeyError as e:
            raise BackendError(f"{folder}/config.json lacks {e.args[0]}, which local/torch needs") from e

    @property
    def groups(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads

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


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise BackendError(f"{file} isn't JSON ({e}); bring the model anew") from e


def _eos(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end an answer. generation_config.json comes first, as in transformers' `generate`:
    there chat models list the end of a turn beside the end of a text."""
    generation = folder / "generation_config.json"
    eos = _read(generation).get("eos_token_id") if generation.is_file() else None
    eos = config.get("eos_token_id") if eos is None else eos
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)


def _problem(config: Mapping[str, Any]) -> str:
    """Why a model would be computed wrongly; empty where it wouldn't."""
    family, rope = config.get("model_type"), config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    layers = config.get("layer_types") or []
    checks = {
        f"its model_type is {family!r}; the families are {', '.join(FAMILIES)}": family not in FAMILIES,
        f"its rope is of kind {kind!r}; there are {', '.join(_ROPES)}": kind not in _ROPES,
        "it rotates a part of each head only (partial_rotary_factor)": (
            rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)) != 1
        ),
        "it has biases (attention_bias or mlp_bias)": (
            bool(config.get("attention_bias") or config.get("mlp_bias"))
        ),
        "it attends within a sliding window": (
            "sliding_attention" in layers if layers else bool(config.get("use_sliding_window"))
        ),
        f"its activation is {config.get('hidden_act')!r}, not 'silu'": (
            config.get("hidden_act", "silu") != "silu"
        ),
        "its weights are quantized; take the plain ones, or a GGUF file": bool(
            config.get("quantization_config")
        ),
    }
    return next((line for line, found in checks.items() if found), "")
