"""Losses, gradients and Adam of one LoRA."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tinker
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from cookbook.errors import BackendError

from .llama import Llama, Lora
from .packing import Tree, pack

# (log-probabilities [M], the datums' other inputs [M]) -> each entry's loss, summed on the wire
Loss = Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]

LOSSES: dict[str, tuple[tuple[str, ...], str, Loss]] = {
    # name: (inputs besides target_tokens, the input that is 0 where nothing is trained, formula)
    "cross_entropy": (("weights",), "weights", lambda logp, x: -x["weights"] * logp),
    # -rho A with rho = pi / mu (Kakade & Langford 2002)
    "importance_sampling": (
        ("logprobs", "advantages"),
        "advantages",
        lambda logp, x: -(logp - x["logprobs"]).exp() * x["advantages"],
    ),
}


class Learner:
    """The trained weights, their gradients and the optimizer's state. Used from one thread."""

    def __init__(self, model: Llama, lora: Lora, token_budget: int) -> None:
        self.model, self.lora, self.token_budget = model, lora, token_budget
        self.adam = torch.optim.AdamW(lora.parameters.values(), lr=0.0)

    def forward_backward(self, data_D: Sequence[tinker.Datum], loss_fn: str) -> tinker.ForwardBackwardOutput:
        """Adds the gradient of the summed loss. Returns each datum's target log-probabilities (nats; 0
        where its weight or advantage is 0, which needs no logits) and the metric `loss:sum`.
        """
        if loss_fn not in LOSSES:
            raise BackendError(f"local/torch has no loss {loss_fn!r}; it has {', '.join(LOSSES)}")
        inputs_D = [_inputs(d, ("target_tokens", *LOSSES[loss_fn][0]), loss_fn) for d in data_D]
        for x in inputs_D:
            trained = x["target_tokens"][x[LOSSES[loss_fn][1]] != 0]
            if trained.size and not 0 <= trained.min() <= trained.max() < self.model.shape.vocab:
                raise BackendError(
                    f"{loss_fn}: target_tokens from {trained.min()} to {trained.max()}: the model has 0 to "
                    f"{self.model.shape.vocab - 1}"
                )
        logprobs_D = [np.zeros(d.model_input.length, dtype=np.float32) for d in data_D]
        total, first = 0.0, 0
        for tree in pack([d.model_input.to_ints() for d in data_D], self.token_budget):
            last = first + len(tree.rows_D)
            total += self._part(tree, inputs_D[first:last], loss_fn, logprobs_D[first:last])
            first = last
        outputs = [{"logprobs": tinker.TensorData.from_numpy(logprobs)} for logprobs in logprobs_D]
        return tinker.ForwardBackwardOutput("logprobs", outputs, {"loss:sum": total})

    def _part(
        self, tree: Tree, inputs_D: Sequence[dict[str, np.ndarray]], loss_fn: str, out_D: list[np.ndarray]
    ) -> float:
        names, decisive, formula = LOSSES[loss_fn]
        needed_D = [np.flatnonzero(x[decisive]) for x in inputs_D]
        if not any(map(len, needed_D)):
            return 0.0
        rows_M = torch.from_numpy(
            np.concatenate([r[at] for r, at in zip(tree.rows_D, needed_D, strict=True)])
        )
        inputs_M = {
            name: torch.from_numpy(
                np.concatenate([x[name][at] for x, at in zip(inputs_D, needed_D, strict=True)])
            )
            for name in ("target_tokens", *names)
        }
        logprobs_M = self._logprobs(tree, rows_M, inputs_M["target_tokens"])
        loss = formula(logprobs_M, inputs_M).sum()
        loss.backward()
        found_M, first = logprobs_M.detach().numpy(), 0
        for out, at in zip(out_D, needed_D, strict=True):
            out[at] = found_M[first : first + len(at)]
            first += len(at)
        return loss.item()

    def _logprobs(self, tree: Tree, rows_M: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        """log p(target | path to the row), float32 [M]: several targets may follow one row."""
        factors = self.lora.factors(self.model.shape.layers, self.model.dtype)
        hidden_N = self.model.hidden(tree.ids_N, tree.depth_N, factors, _tree_attention(tree))
        rows_R, at_M = torch.unique(rows_M, return_inverse=True)
        logits_R = self.model.logits(hidden_N[rows_R])
        return logits_R[at_M, targets_M] - logits_R.logsumexp(-1)[at_M]

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

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Weights and optimizer state; the folder appears whole or not at all.

        Raises `BackendError` where there is one already, unless `overwrite`.
        """
        if folder.exists() and not overwrite:
            raise BackendError(f"{folder} is already there; save under another name, or remove it")
        part = folder.with_name(f".{folder.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        moments = {}
        for name, parameter in self.lora.parameters.items():
            state = self.adam.state.get(parameter, {})
            moments |= {f"{name}/{key}": value for key, value in state.items()}
        save_file(moments, part / "adam.safetensors")
        facts = {"rank": str(self.lora.rank), "alpha": str(self.lora.alpha)}
        save_file({k: p.detach() for k, p in self.lora.parameters.items()}, part / "lora.safetensors", facts)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)

    def load(self, folder: Path, *, optimizer: bool) -> None:
        """Forgets the gradient. Raises `BackendError` for weights of another rank, alpha or model."""
        mine = {name: list(p.shape) for name, p in self.lora.parameters.items()}
        with safe_open(folder / "lora.safetensors", framework="pt") as file:
            facts = file.metadata()
            theirs = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if theirs != mine or float(facts["alpha"]) != self.lora.alpha:
                raise BackendError(
                    f"{folder}: a LoRA of rank {facts['rank']} and alpha {facts['alpha']} on "
                    f"{len(theirs)} tensors, the run has rank {self.lora.rank} and alpha {self.lora.alpha} "
                    f"on {len(mine)}; give the same model, lora_rank and lora_alpha"
                )
            with torch.no_grad():
                for name, parameter in self.lora.parameters.items():
                    parameter.copy_(file.get_tensor(name))
        self.adam.zero_grad()
        self.adam.state.clear()
        if optimizer:
            with safe_open(folder / "adam.safetensors", framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it isn't a dict
                    name, moment = key.split("/")
                    self.adam.state[self.lora.parameters[name]][moment] = file.get_tensor(key)


def _tree_attention(tree: Tree):
    mask = tree.sees_NN[None, None]

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


def _inputs(datum: tinker.Datum, names: Sequence[str], loss_fn: str) -> dict[str, np.ndarray]:
    """Raises `BackendError` for an input that is missing or of another length than the tokens."""
    found = {}
    for name in names:
        if name not in datum.loss_fn_inputs:
            raise BackendError(
                f"{loss_fn} needs loss_fn_inputs[{name!r}]; the datum has {sorted(datum.loss_fn_inputs)}"
            )
        found[name] = datum.loss_fn_inputs[name].to_numpy()
        if found[name].shape != (datum.model_input.length,):
            raise BackendError(
                f"{loss_fn}: {name} of shape {found[name].shape} for {datum.model_input.length} tokens"
            )
    return found
