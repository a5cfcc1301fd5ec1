"""From a datum to what a loss needs of it, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tinker
import torch

from cookbook.errors import BackendError

from .llama import LlamaShape
from .losses import Loss


@dataclass(frozen=True)
class Entries:
    """The targets of one datum that take part in a loss.

    tokens: the datum's, [T]. shape: of all its targets: [T], or [T, K] where K of them follow each token.
    at_M: the places of those that take part in the flattened shape, int64 [M].
    inputs: `target_tokens` and the loss's other inputs, each [M].
    """

    tokens: list[int]
    shape: tuple[int, ...]
    at_M: np.ndarray
    inputs: dict[str, np.ndarray]

    @property
    def positions_M(self) -> np.ndarray:
        """Of the tokens that the targets follow."""
        return self.at_M // (self.shape[1] if len(self.shape) == 2 else 1)

    def spread(self, values_M: np.ndarray) -> np.ndarray:
        """Values in their places, 0 elsewhere: float32, of `shape`."""
        out = np.zeros(self.shape, dtype=np.float32)
        out.reshape(-1)[self.at_M] = values_M
        return out


def entries(datum: tinker.Datum, loss: Loss, model: LlamaShape) -> Entries:
    """Raises `BackendError` for tokens and targets that the model doesn't have, and for an input that is
    missing or of another shape than the targets. A sparse input is 0 where nothing is listed."""
    tokens = _tokens(datum.model_input, loss.name, model)
    inputs = {"target_tokens": _input(datum, loss.name, "target_tokens")}
    shape = inputs["target_tokens"].shape
    if len(shape) not in (1, 2) or shape[0] != len(tokens):
        raise BackendError(
            f"{loss.name}: target_tokens of shape {shape} for {len(tokens)} tokens: ({len(tokens)},), or "
            f"({len(tokens)}, K) for K targets a token"
        )
    for name in (*loss.inputs, *(name for name in loss.optional if name in datum.loss_fn_inputs)):
        inputs[name] = _input(datum, loss.name, name)
        if inputs[name].shape != shape:
            raise BackendError(
                f"{loss.name}: {name} of shape {inputs[name].shape} for target_tokens of shape {shape}"
            )
    takes_part = np.any([inputs[name] != 0 for name in loss.where], axis=0) if loss.where else np.ones(shape)
    at_M = np.flatnonzero(takes_part)
    inputs = {name: values.reshape(-1)[at_M] for name, values in inputs.items()}
    _check_ids(inputs["target_tokens"], f"{loss.name}: target_tokens", model)
    return Entries(tokens, shape, at_M, inputs)


def gathered(entries_D: Sequence[Entries], loss: Loss, device: torch.device) -> dict[str, torch.Tensor]:
    """The inputs of all entries, one datum's after another's [M], and `datum`, whose each is, int64 [M]."""
    inputs_M = {
        name: np.concatenate([each.inputs[name] for each in entries_D])
        for name in ("target_tokens", *loss.inputs)
    }
    for name in loss.optional:
        inputs_M[name] = np.concatenate(
            [
                each.inputs.get(name, np.full(len(each.at_M), loss.settings[name], np.float32))
                for each in entries_D
            ]
        )
    inputs_M["datum"] = np.repeat(np.arange(len(entries_D)), [len(each.at_M) for each in entries_D])
    return {name: torch.from_numpy(values).to(device) for name, values in inputs_M.items()}


def _tokens(model_input: tinker.ModelInput, loss: str, model: LlamaShape) -> list[int]:
    try:
        tokens = model_input.to_ints()
    except ValueError as e:
        raise BackendError(f"{loss}: local/torch trains on text alone: {e}") from e
    if len(tokens) > model.context:
        raise BackendError(f"{loss}: a datum of {len(tokens)} tokens; the model takes {model.context}")
    _check_ids(np.array(tokens, dtype=np.int64), f"{loss}: model_input", model)
    return tokens


def _input(datum: tinker.Datum, loss: str, name: str) -> np.ndarray:
    if name not in datum.loss_fn_inputs:
        raise BackendError(
            f"{loss} needs loss_fn_inputs[{name!r}]; the datum has {sorted(datum.loss_fn_inputs)}"
        )
    try:
        return datum.loss_fn_inputs[name].to_numpy()
    except (AssertionError, RuntimeError, ValueError) as e:  # indices that don't fit the shape
        raise BackendError(f"{loss}: {name} is no sparse matrix: {str(e).splitlines()[0]}") from e


def _check_ids(ids: np.ndarray, what: str, model: LlamaShape) -> None:
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise BackendError(f"{what} must be int64, not {ids.dtype}")
    if ids.size and not 0 <= ids.min() <= ids.max() < model.vocab:
        raise BackendError(f"{what} from {ids.min()} to {ids.max()}: the model has 0 to {model.vocab - 1}")
