"""`core/tinker`: the SDK's own clients, as far as they go without a server."""

from __future__ import annotations

import asyncio

import pytest
import tinker

from cookbook.backends.base import Trainer, plain_errors, together
from cookbook.backends.tinker import TinkerBackend
from cookbook.errors import BackendError, ConfigError


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_service_is_the_sdks_own_at_the_url_given(tmp_path):
    service = TinkerBackend(base_url="http://127.0.0.1:9").connect(tmp_path / "r")
    assert isinstance(service, tinker.ServiceClient)


def test_without_a_key_one_line_says_what_to_set_and_what_needs_none(tmp_path):
    service = TinkerBackend().connect(tmp_path / "r")
    with pytest.raises(BackendError, match=r"TINKER_API_KEY.*--local") as e, plain_errors():
        service.create_lora_training_client("Qwen/Qwen3-8B", rank=8, seed=0)
    assert "\n" not in str(e.value)


def test_whatever_the_sdk_raises_is_one_line():
    with pytest.raises(BackendError, match="TinkerError: the session expired") as e, plain_errors():
        raise tinker.TinkerError("the session\nexpired")
    assert "\n" not in str(e.value)


def test_an_error_that_isnt_the_sdks_stays_what_it_is():
    with pytest.raises(ValueError, match="mine"), plain_errors():
        raise ValueError("mine")


def test_of_errors_that_come_together_the_first_is_raised_with_its_cause():
    async def fails(error, cause):
        raise error from cause

    cause = OSError("why")
    with pytest.raises(ValueError, match="first") as e:
        asyncio.run(together([fails(ValueError("first"), cause), fails(ValueError("second"), None)]))
    assert e.value.__cause__ is cause


@pytest.mark.parametrize(("error", "heard"), [(tinker.TinkerError("gone"), 0), (ValueError("mine"), 1)])
def test_an_error_of_the_sdk_that_nobody_waits_for_is_not_told(caplog, tmp_path, error, heard):
    """asyncio tells of it; the one that ended the run has been told by then."""

    async def main():
        asyncio.get_running_loop().call_exception_handler({"message": "never retrieved", "exception": error})

    with TinkerBackend().connect(tmp_path / "r"):
        asyncio.run(main())
    assert len(caplog.records) == heard


def test_a_url_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="must begin with http"):
        TinkerBackend(base_url="notaurl")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B/long", "Qwen/Qwen3-8B"),
        ("meta-llama/Llama-3.1-8B", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"),
    ],
)
def test_the_tokenizer_is_taken_from_where_the_service_takes_it(monkeypatch, model, name):
    monkeypatch.setattr("cookbook.backends.tinker.load_tokenizer", lambda asked: asked)
    assert TinkerBackend().tokenizer(model) == name


def test_the_calls_of_the_loop_are_the_sdks_own_methods():
    """Names and parameters that `Trainer` and `Player` rely on exist in the SDK that is installed."""
    import inspect

    def takes(method, *names):
        return set(names) <= set(inspect.signature(method).parameters)

    training, sampling = tinker.TrainingClient, tinker.SamplingClient
    assert takes(training.forward_backward, "data", "loss_fn", "loss_fn_config")
    assert takes(training.optim_step, "optim_params")
    assert takes(training.save_state, "name", "overwrite")
    assert takes(training.save_weights_and_get_sampling_client, "self")
    assert takes(training.save_weights_for_sampler, "name")
    assert takes(training.forward, "data", "loss_fn", "loss_fn_config")
    assert takes(sampling.compute_logprobs, "prompt")
    service = tinker.ServiceClient
    assert takes(service.create_sampling_client, "model_path", "base_model")
    assert takes(service.create_training_client_from_state, "path")
    assert takes(service.create_training_client_from_state_with_optimizer, "path")
    assert hasattr(service, "create_rest_client")
    assert takes(sampling.sample, "prompt", "num_samples", "sampling_params")
    assert takes(tinker.ServiceClient.create_lora_training_client, "base_model", "rank", "seed")
    assert hasattr(tinker.ServiceClient, "close")


def test_a_trainer_submits_gradient_and_update_before_it_waits(fake_client):
    client = fake_client()
    trainer = Trainer(client, "importance_sampling")
    trainer.accumulate([])
    assert client.calls == []
    update = trainer.step(None)  # type: ignore[arg-type]
    assert asyncio.run(update).metrics == {} and trainer.optimizer_steps == 0
