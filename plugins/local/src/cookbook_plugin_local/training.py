"""Losses, gradients and Adam of one LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tinker
import torch

from cookbook.errors import BackendError

from .attention import tree_attention
from .entries import Entries, entries, gathered
from .llama import Llama, Lora
from .logprobs import target_logprobs
from .losses import Loss
from .packing import Tree, pack

CustomLoss = Callable[[list[tinker.Datum], list[torch.Tensor]], tuple[torch.Tensor, dict[str, float]]]
"""(data, the log-probabilities of each datum's targets, float32 with a gradient) -> (loss, metrics)."""

_TARGETS = Loss("forward_backward_custom", (), (), lambda logp, x, settings: logp)
_KEPT = 4
"""Trees whose activations are kept while a custom loss is computed; later ones are run again."""


@dataclass(frozen=True)
class _Pass:
    """Datums `part` as one tree, and their entries."""

    part: slice
    tree: Tree
    entries_D: Sequence[Entries]

    @property
    def counts(self) -> list[int]:
        return [len(each.at_M) for each in self.entries_D]


class Learner:
    """The trained weights, their gradients and the optimizer's state. Used from one thread.

    token_budget: rows of a forward and backward pass, part of what a run's bits depend on.
    moments: Adam's state, as `moments` gives it, to go on from; none: a fresh optimizer.
    checkpointing: between forward and backward a layer keeps its input alone, and is computed again: less
    memory, a third more work, the same bits.
    """

    def __init__(
        self,
        model: Llama,
        lora: Lora,
        token_budget: int,
        moments: Mapping[str, torch.Tensor] | None = None,
        *,
        checkpointing: bool = False,
    ) -> None:
        self.model, self.lora, self.token_budget = model, lora, token_budget
        self.checkpointing = checkpointing
        for parameter in lora.parameters.values():
            parameter.requires_grad_()
        self.adam = torch.optim.AdamW(lora.parameters.values(), lr=0.0)
        for key, value in (moments or {}).items():
            name, moment = key.split("/")
            parameter = lora.parameters[name]
            # Adam counts its steps on the processor, wherever the weights are.
            self.adam.state[parameter][moment] = value.to(parameter.device) if value.dim() else value

    @property
    def moments(self) -> dict[str, torch.Tensor]:
        """Adam's state: {"3.q.A/exp_avg": ...}; empty before the first step."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self.lora.parameters.items()
            for moment, value in self.adam.state.get(parameter, {}).items()
        }

    def forward_backward(self, data_D: Sequence[tinker.Datum], loss: Loss) -> tinker.ForwardBackwardOutput:
        """Adds the gradient of the summed loss. Returns each datum's target log-probabilities (float32, of
        its targets' shape, nats; 0 where the loss doesn't need one, which spares its logits) and the metric
        `loss:sum`.

        Raises `BackendError` for a datum that doesn't fit the loss or the model.
        """
        return self._run(data_D, loss, train=True)

    @torch.inference_mode()
    def forward(self, data_D: Sequence[tinker.Datum], loss: Loss) -> tinker.ForwardBackwardOutput:
        """The same without a gradient, and with the log-probability of every target."""
        return self._run(data_D, replace(loss, where=()), train=False)

    def forward_backward_custom(
        self, data_D: Sequence[tinker.Datum], fn: CustomLoss
    ) -> tinker.ForwardBackwardOutput:
        """Adds the gradient of `fn`'s loss, which it computes from the log-probabilities of all targets.

        A datum needs `target_tokens`; what else it brings is for `fn`. The metrics are those of `fn`, its
        loss as `loss:sum`, and as `surrogate_loss:sum` the sum of gradient times log-probability, as
        tinker's client has it. One forward pass; where there are more trees than _KEPT, those after them
        are computed twice, since what all would keep grows with the batch. Whatever `fn` raises is raised,
        and adds no gradient.
        """
        if not data_D:
            raise BackendError("forward_backward_custom: no data; give at least one datum")
        entries_D = [entries(datum, _TARGETS, self.model.shape) for datum in data_D]
        passes = list(self._passes(entries_D))
        found = []
        for i, each in enumerate(passes):
            with torch.set_grad_enabled(i < _KEPT):
                found.append(self._logprobs(each))
        leaves_D = [torch.zeros(each.shape) for each in entries_D]
        for each, logprobs_M in zip(passes, found, strict=True):
            for d, values in zip(
                _range(each.part), logprobs_M.detach().cpu().split(each.counts), strict=True
            ):
                leaves_D[d] = values.reshape(entries_D[d].shape).clone()
        logprobs_D = [leaf.clone().numpy() for leaf in leaves_D]
        custom, metrics = fn(list(data_D), [leaf.requires_grad_() for leaf in leaves_D])
        custom.backward()
        grads_D = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves_D]
        for each, logprobs_M in zip(passes, found, strict=True):
            grad_M = torch.cat([grad.reshape(-1) for grad in grads_D[each.part]]).to(logprobs_M)
            (logprobs_M if logprobs_M.requires_grad else self._logprobs(each)).backward(grad_M)
        surrogate = sum(float((g.numpy() * x).sum()) for g, x in zip(grads_D, logprobs_D, strict=True))
        sums = {"loss:sum": float(custom.detach().sum()), "surrogate_loss:sum": surrogate}
        return _output(logprobs_D, {**metrics, **sums})

    def optim_step(self, params: tinker.AdamParams) -> tinker.OptimStepResponse:
        """One Adam step, decay decoupled (Loshchilov & Hutter 2019), on the summed gradient, then zeroed.

        The metric `grad_norm` is of the whole gradient, before it's clipped. Raises `BackendError` for
        another optimizer's parameters.
        """
        if not isinstance(params, tinker.AdamParams):
            raise BackendError(f"local/torch has Adam alone: give AdamParams, not {type(params).__name__}")
        self.adam.param_groups[0].update(
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.eps,
            weight_decay=params.weight_decay,
        )
        weights = list(self.lora.parameters.values())
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        if params.grad_clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(weights, params.grad_clip_norm, norm)
        self.adam.step()
        self.adam.zero_grad()
        return tinker.OptimStepResponse(metrics={"grad_norm": norm.item()})

    def _run(
        self, data_D: Sequence[tinker.Datum], loss: Loss, *, train: bool
    ) -> tinker.ForwardBackwardOutput:
        entries_D = [entries(datum, loss, self.model.shape) for datum in data_D]
        logprobs_D = [each.spread(np.zeros(len(each.at_M))) for each in entries_D]
        total = 0.0
        for each in self._passes(entries_D):
            logprobs_M = self._logprobs(each)
            inputs_M = gathered(each.entries_D, loss, logprobs_M.device)
            summed = loss.formula(logprobs_M, inputs_M, loss.settings).sum()
            if train:
                summed.backward()
            total += summed.item()
            values_D = logprobs_M.detach().cpu().split(each.counts)
            logprobs_D[each.part] = [
                e.spread(x.numpy()) for e, x in zip(each.entries_D, values_D, strict=True)
            ]
        return _output(logprobs_D, {"loss:sum": total})

    def _passes(self, entries_D: Sequence[Entries]) -> Iterator[_Pass]:
        """Trees in order, without those that have nothing to compute."""
        first = 0
        for tree in pack([each.tokens for each in entries_D], self.token_budget):
            part = slice(first, first + len(tree.rows_D))
            first = part.stop
            if any(len(each.at_M) for each in entries_D[part]):
                yield _Pass(part, tree, entries_D[part])

    def _logprobs(self, each: _Pass) -> torch.Tensor:
        """log p(target | path to its row), float32 [M], one datum's entries after another's."""
        tree, device = each.tree, self.model.embedding.device
        rows_M = np.concatenate([r[e.positions_M] for r, e in zip(tree.rows_D, each.entries_D, strict=True)])
        targets_M = np.concatenate([e.inputs["target_tokens"] for e in each.entries_D])
        rows_R, at_M = np.unique(rows_M, return_inverse=True)
        ids_N, depth_N, rows, at, targets = (
            torch.from_numpy(x).to(device) for x in (tree.ids_N, tree.depth_N, rows_R, at_M, targets_M)
        )
        factors = self.lora.factors(self.model.shape.layers, self.model.dtype)
        hidden_N = self.model.hidden(
            ids_N, depth_N, factors, tree_attention(tree, device), checkpointing=self.checkpointing
        )
        return target_logprobs(hidden_N[rows], self.model.unembedding, at, targets)


def _range(part: slice) -> range:
    return range(part.start, part.stop)


def _output(logprobs_D: Sequence[np.ndarray], metrics: dict[str, float]) -> tinker.ForwardBackwardOutput:
    outputs = [{"logprobs": tinker.TensorData.from_numpy(logprobs)} for logprobs in logprobs_D]
    return tinker.ForwardBackwardOutput("logprobs", outputs, metrics)
