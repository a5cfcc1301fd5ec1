"""Tinker's `SamplingClient`, in this process."""

from __future__ import annotations

from typing import Any

import tinker
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture

from cookbook.errors import ConfigError

from .llama import Lora
from .machine import Base, Machine
from .request import new_request, new_scoring, score_request
from .sdk import ServiceError, shaped_like

_STAYS = "its weights live in this process; save_weights_for_sampler gives a path that others open"


@shaped_like(
    tinker.SamplingClient,
    refused={
        "create": "ask a ServiceClient: create_sampling_client(model_path or base_model)",
        "get_sampler_handle": _STAYS,
        "from_sampler_handle": "handles are the hosted service's; create_sampling_client opens a path",
        "on_queue_state_change": "there is no service whose queue could change",
    },
)
class SamplingClient:
    """Fixed weights. Calls made at the same time are computed together."""

    def __init__(self, machine: Machine, base: Base, lora: Lora) -> None:
        self._machine, self._base = machine, base
        self._decoder = machine.decoder(base, lora)

    def sample(
        self,
        prompt: tinker.ModelInput,
        num_samples: int,
        sampling_params: tinker.SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: tinker.TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[tinker.SampleResponse]:
        """`num_samples` sequences after one prefill, each with its tokens' log-probabilities in nats.

        The stop token is part of the tokens; log-probabilities are of the raw distribution, whatever the
        temperature, top_k (applied first) and top_p. What of the prompt earlier requests had computed isn't
        computed again (`prompt_cache_hit_tokens`), and changes no bit. Cancelling what awaits the future
        frees its rows. Raises `ConfigError` for parameters that can't be.
        """
        others = {
            "target_prompt_logprobs": target_prompt_logprobs,
            "prompt_alt_tokens_k": prompt_alt_tokens_k,
        }
        if asked := [name for name, value in others.items() if value]:
            raise ConfigError(
                f"local/torch: sample gives no {' and no '.join(asked)}; topk_prompt_logprobs gives the "
                "likeliest tokens at each place of a prompt"
            )
        shape = self._base.model.shape
        scoring = new_scoring(
            prompt.length, include_prompt_logprobs, prompt_logprobs_last_n, topk_prompt_logprobs, shape
        )
        request = new_request(
            prompt, num_samples, sampling_params, shape, scoring=scoring, sample_top_k=topk_sample_logprobs
        )
        return AwaitableConcurrentFuture(self._machine.engine.serve(self._decoder, request))

    def compute_logprobs(
        self, prompt: tinker.ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """Each token's log-probability (nats, at temperature 1) after those before it; the first has None.

        prompt_logprobs_last_n: only the last N, all before have None. Raises `ConfigError` for what
        can't be.
        """
        request = score_request(prompt, prompt_logprobs_last_n, self._base.model.shape)
        return AwaitableConcurrentFuture(self._machine.engine.serve(self._decoder, request))

    def get_tokenizer(self) -> Any:
        """The model's, of transformers' kind."""
        return self._base.transformers_tokenizer

    def get_base_model(self) -> str:
        return self._machine.called(self._base)

    def get_telemetry(self) -> None:
        """None: nothing is reported to anybody."""

    def __reduce__(self) -> Any:
        raise ServiceError(f"local/torch: a SamplingClient can't be pickled: {_STAYS}")


def check_sampling(record_stability_info: bool) -> None:
    """Raises `ConfigError` for what only the hosted service keeps."""
    if record_stability_info:
        raise ConfigError(
            "record_stability_info: only the hosted service keeps what loss_fn=stable_reinforce needs; "
            "use loss_fn=importance_sampling, ppo or cispo"
        )
