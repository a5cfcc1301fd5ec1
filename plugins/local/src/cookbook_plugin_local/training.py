"""Losses, gradients and Adam of one LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tinker
import torch

from cookbook.errors import BackendError

from .attention import tree_attention
from .llama import Llama, Lora
from .logprobs import target_logprobs
from .losses import Loss
from .packing import Tree, pack


@dataclass(frozen=True)
class _Entries:
    """The tokens of one datum that take part in the loss: their places, int64 [M], and inputs, each [M]."""

    at_M: np.ndarray
    inputs: dict[str, np.ndarray]


class Learner:
    """The trained weights, their gradients and the optimizer's state. Used from one thread.

    moments: Adam's state, as `moments` gives it, to go on from; none: a fresh optimizer.
    """

    def __init__(
        self, model: Llama, lora: Lora, token_budget: int, moments: Mapping[str, torch.Tensor] | None = None, *, checkpointing: bool = False
    ) -> None:
        self.model, self.lora, self.token_budget = model, lora, token_budget
        self.checkpointing = checkpointing
        for parameter in lora.parameters.values():
            parameter.requires_grad_()
        self.adam = torch.optim.AdamW(lora.parameters.values(), lr=0.0)
        for key, value in (moments or {}).items():
            name, moment = key.split("/")
            self.adam.state[lora.parameters[name]][moment] = value

    @property
    def moments(self) -> dict[str, torch.Tensor]:
        """Adam's state: {"3.q.A/exp_avg": ...}; empty before the first step."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self.lora.parameters.items()
            for moment, value in self.adam.state.get(parameter, {}).items()
        }

    def forward_backward(self, data_D: Sequence[tinker.Datum], loss: Loss) -> tinker.ForwardBackwardOutput:
        """Adds the gradient of the summed loss. Returns each datum's target log-probabilities (float32 [T],
        nats; 0 where the loss doesn't need one, which spares its logits) and the metric `loss:sum`.

        Raises `BackendError` for a datum that doesn't fit the loss or the model.
        """
        return self._run(data_D, loss, train=True)

    @torch.inference_mode()
    def forward(self, data_D: Sequence[tinker.Datum], loss: Loss) -> tinker.ForwardBackwardOutput:
        """The same without a gradient, and with the log-probability of every target."""
        return self._run(data_D, replace(loss, where=()), train=False)

    def _run(
        self, data_D: Sequence[tinker.Datum], loss: Loss, *, train: bool
    ) -> tinker.ForwardBackwardOutput:
        entries_D = [_entries(datum, loss, self.model.shape.vocab) for datum in data_D]
        logprobs_D = [np.zeros(d.model_input.length, dtype=np.float32) for d in data_D]
        total, first = 0.0, 0
        for tree in pack([d.model_input.to_ints() for d in data_D], self.token_budget):
            part = slice(first, first + len(tree.rows_D))
            first = part.stop
            counts = [len(entries.at_M) for entries in entries_D[part]]
            if not any(counts):
                continue
            logprobs_M, summed = self._part(tree, entries_D[part], loss)
            if train:
                summed.backward()
            total += summed.item()
            found_D = np.split(logprobs_M.detach().numpy(), np.cumsum(counts)[:-1])
            for out, entries, found in zip(logprobs_D[part], entries_D[part], found_D, strict=True):
                out[entries.at_M] = found
        outputs = [{"logprobs": tinker.TensorData.from_numpy(logprobs)} for logprobs in logprobs_D]
        return tinker.ForwardBackwardOutput("logprobs", outputs, {"loss:sum": total})

    def _part(
        self, tree: Tree, entries_D: Sequence[_Entries], loss: Loss
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-probabilities of all entries, one datum's after another's [M], and the summed loss."""
        inputs_M = {
            name: torch.from_numpy(np.concatenate([entries.inputs[name] for entries in entries_D]))
            for name in ("target_tokens", *loss.inputs)
        }
        counts = torch.tensor([len(entries.at_M) for entries in entries_D])
        inputs_M["datum"] = torch.repeat_interleave(counts)
        rows_M = np.concatenate([r[e.at_M] for r, e in zip(tree.rows_D, entries_D, strict=True)])
        logprobs_M = self._logprobs(tree, torch.from_numpy(rows_M), inputs_M["target_tokens"])
        return logprobs_M, loss.formula(logprobs_M, inputs_M, loss.settings).sum()

    def _logprobs(self, tree: Tree, rows_M: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        """log p(target | path to the row), float32 [M]: several targets may follow one row."""
        factors = self.lora.factors(self.model.shape.layers, self.model.dtype)
        device = self.model.embedding.device
        attend = tree_attention(tree, device)
        ids_N, depth_N = (torch.from_numpy(x).to(device) for x in (tree.ids_N, tree.depth_N))
        hidden_N = self.model.hidden(ids_N, depth_N, factors, attend, checkpointing=self.checkpointing)
        rows_R, at_M = torch.unique(rows_M, return_inverse=True)
        return target_logprobs(hidden_N[rows_R], self.model.unembedding, at_M, targets_M)

    def optim_step(self, params: tinker.AdamParams) -> tinker.OptimStepResponse:
        """One Adam step, decay decoupled (Loshchilov & Hutter 2019), on the summed gradient, then zeroed."""
        group = self.adam.param_groups[0]
        group.update(
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.eps,
            weight_decay=params.weight_decay,
        )
        weights = group["params"]
        norm = torch.nn.utils.clip_grad_norm_(weights, params.grad_clip_norm or float("inf"))
        self.adam.step()
        self.adam.zero_grad()
        return tinker.OptimStepResponse(metrics={"grad_norm": norm.item()})


def _entries(datum: tinker.Datum, loss: Loss, vocabulary: int) -> _Entries:
    """Raises `BackendError` for an input that is missing or of another length than the tokens, and for a
    target that the model doesn't have."""
    inputs, length = {}, datum.model_input.length
    for name in ("target_tokens", *loss.inputs):
        if name not in datum.loss_fn_inputs:
            raise BackendError(
                f"{loss.name} needs loss_fn_inputs[{name!r}]; the datum has {sorted(datum.loss_fn_inputs)}"
            )
        inputs[name] = datum.loss_fn_inputs[name].to_numpy()
        if inputs[name].shape != (length,):
            raise BackendError(f"{loss.name}: {name} of shape {inputs[name].shape} for {length} tokens")
    takes_part = np.any([inputs[name] != 0 for name in loss.where], axis=0) if loss.where else np.ones(length)
    at_M = np.flatnonzero(takes_part)
    targets = inputs["target_tokens"][at_M]
    if targets.size and not 0 <= targets.min() <= targets.max() < vocabulary:
        raise BackendError(
            f"{loss.name}: target_tokens from {targets.min()} to {targets.max()}: the model has 0 to "
            f"{vocabulary - 1}"
        )
    return _Entries(at_M, {name: values[at_M] for name, values in inputs.items()})
