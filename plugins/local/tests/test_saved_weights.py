"""Weights that a client saves, and clients that are made from them: the same bits."""

import errno
import os
from contextlib import ExitStack

import numpy as np
import pytest
import tinker
import torch
from safetensors.torch import load_file, save_file

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local.client import ServiceClient
from cookbook_plugin_local.machine import Options
from cookbook_plugin_local.tiny import make_tiny_llama

ADAM = tinker.AdamParams(learning_rate=1e-2)
PROMPT = tinker.ModelInput.from_ints([5, 6, 7])


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


@pytest.fixture
def connect(tmp_path):
    with ExitStack() as services:
        yield lambda run="run": services.enter_context(
            ServiceClient(run_dir=tmp_path / run, options=Options(torch.float32, 256, 8.0))
        )


@pytest.fixture
def service(connect):
    return connect()


@pytest.fixture
def client(service, folder):
    return new_client(service, folder)


def new_client(service, folder, rank=4, seed=0):
    return service.create_lora_training_client(str(folder), rank, seed).result()


def datum(seed=0):
    ids = np.random.default_rng(seed).integers(3, 259, 12).tolist()
    inputs = {"target_tokens": ids[1:] + [2], "weights": [1.0] * 12}
    return tinker.Datum(tinker.ModelInput.from_ints(ids), inputs)


def train(client, seeds):
    for seed in seeds:
        client.forward_backward([datum(seed)], "cross_entropy")
        client.optim_step(ADAM).result()


def bits(sampler):
    """All that may come out of a sampler: samples, their log-probabilities, those of given tokens."""
    params = tinker.SamplingParams(max_tokens=20, stop=[], seed=3)
    sampled = sampler.sample(PROMPT, 3, params)
    given = sampler.compute_logprobs(tinker.ModelInput.from_ints(list(range(5, 40))))
    return [(s.tokens, s.logprobs) for s in sampled.result().sequences], given.result()


def answer(client):
    """What the weights say."""
    return bits(client.save_weights_and_get_sampling_client().result())


def one_line(error, text):
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_is_saved_under_the_run_and_opened_from_the_run_beside_it(connect, folder, tmp_path):
    first = new_client(connect("one"), folder, rank=3)
    train(first, [1])
    path = first.save_state("step-1").result().path
    assert path == "tinker://one/weights/step-1"
    assert (tmp_path / "one" / "weights" / "step-1").is_dir()
    other = connect("two")
    second = other.create_training_client_from_state_with_optimizer(path).result()
    fresh = other.create_training_client_from_state(path).result()
    assert second._learner.lora.rank == 3
    assert second.get_tokenizer().encode("Hi") == first.get_tokenizer().encode("Hi")
    assert answer(first) == answer(second) == answer(fresh)
    for client in (first, second, fresh):
        train(client, [2])
    assert answer(first) == answer(second) != answer(fresh)  # a fresh optimizer takes another step


def test_training_goes_on_from_a_state_to_the_bit(connect, folder):
    def step(client, seed):
        client.forward_backward([datum(seed), datum(seed + 10)], "cross_entropy")
        params = tinker.AdamParams(learning_rate=1e-2, weight_decay=0.1, grad_clip_norm=0.5)
        return client.optim_step(params).result().metrics

    def whole(client):
        learner = client._learner
        return {**learner.moments, **{name: p.detach() for name, p in learner.lora.parameters.items()}}

    straight, stopped = (new_client(connect(run), folder, seed=5) for run in ("straight", "stopped"))
    for seed in (0, 1):
        assert step(straight, seed) == step(stopped, seed)
    path = stopped.save_state("two").result().path
    resumed = connect("stopped").create_training_client_from_state_with_optimizer(path).result()
    assert step(straight, 2) == step(resumed, 2)
    a, b = whole(straight), whole(resumed)
    assert set(a) == set(b)
    assert len(a) == 4 * len(straight._learner.lora.parameters)  # step, two moments, the weights
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert answer(straight) == answer(resumed)


def test_a_state_saved_before_any_step_can_be_gone_on_from(service, client):
    path = client.save_state("start").result().path
    loaded = service.create_training_client_from_state_with_optimizer(path).result()
    for each in (client, loaded):
        train(each, [1, 2])
    assert answer(client) == answer(loaded)


def test_a_gradient_that_was_not_used_is_not_saved(service, client):
    client.forward_backward([datum()], "cross_entropy")
    path = client.save_state("a").result().path
    loaded = service.create_training_client_from_state_with_optimizer(path).result()
    assert loaded.optim_step(ADAM).result().metrics["grad_norm"] == 0


def test_saved_sampler_weights_give_the_bits_of_the_client_of_the_same_moment(connect, client, tmp_path):
    train(client, [1, 2])
    at_once = client.save_weights_and_get_sampling_client()
    saved, state = client.save_weights_for_sampler("step-2", ttl_seconds=3600), client.save_state("step-2")
    train(client, [3])
    expected = bits(at_once.result())
    assert saved.result().path == "tinker://run/sampler_weights/step-2"
    files = tmp_path / "run" / "sampler_weights" / "step-2"
    assert [file.name for file in files.iterdir()] == ["lora.safetensors"]
    for path in (saved.result().path, state.result().path):
        assert bits(connect("other").create_sampling_client(path).result()) == expected
    assert answer(client) != expected


def test_the_bare_model_gives_the_bits_of_a_fresh_lora(service, folder):
    bare = bits(service.create_sampling_client(base_model=str(folder)).result())
    for rank in (1, 16):
        assert answer(new_client(service, folder, rank, seed=rank)) == bare


def test_sampler_weights_of_a_name_are_replaced(service, client):
    path = client.save_weights_for_sampler("a").result().path
    train(client, [1])
    assert client.save_weights_for_sampler("a").result().path == path
    assert bits(service.create_sampling_client(path).result()) == answer(client)


def test_a_state_is_saved_again_under_its_name_only_if_asked(service, client):
    path = client.save_state("a").result().path
    train(client, [1])
    assert client.save_state("a", overwrite=True).result().path == path
    loaded = service.create_training_client_from_state(path).result()
    assert answer(loaded) == answer(client)
    with pytest.raises(BackendError) as error:
        client.save_state("a").result()
    one_line(error, "is already there")


def test_a_name_that_cannot_be_is_refused_at_once(client):
    for save in (client.save_state, client.save_weights_for_sampler):
        with pytest.raises(BackendError) as error:
            save("a/b")
        one_line(error, "'a/b' isn't a name")
    train(client, [0])


@pytest.mark.parametrize("save", ["save_state", "save_weights_for_sampler"])
def test_a_full_disk_reaches_who_waits_and_poisons_the_client(service, client, save, tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError) as error:
            getattr(client, save)("a").result()
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename.endswith("lora.safetensors")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() or path.name == ".a.part"]
    with pytest.raises(BackendError) as poisoned:
        client.optim_step(ADAM).result()
    one_line(poisoned, "an earlier request of this client failed: [Errno 28]")


def test_deleted_weights_are_gone_and_others_stay(service, client, tmp_path):
    rest = service.create_rest_client()
    paths = [client.save_state("a").result().path, client.save_weights_for_sampler("a").result().path]
    kept = client.save_state("b").result().path
    for path in paths:
        assert rest.delete_checkpoint_from_tinker_path(path).result() is None
        with pytest.raises(BackendError) as error:
            rest.delete_checkpoint_from_tinker_path(path).result()
        one_line(error, f"no saved weights {path!r}")
    assert [p.name for p in (tmp_path / "run" / "weights").iterdir()] == ["b"]
    assert answer(service.create_training_client_from_state(kept).result()) == answer(client)
    with pytest.raises(BackendError):
        rest.delete_checkpoint_from_tinker_path("tinker://../weights/a").result()


def test_weights_are_deleted_after_the_save_that_was_asked_for_before(service, client):
    saved = client.save_weights_for_sampler("a")
    deleted = service.create_rest_client().delete_checkpoint_from_tinker_path(
        "tinker://run/sampler_weights/a"
    )
    assert deleted.result() is None and saved.result().path == "tinker://run/sampler_weights/a"


def test_the_base_model_is_found_from_another_working_folder(connect, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    service = connect()
    client = new_client(service, folder.name)
    train(client, [1])
    path = client.save_weights_for_sampler("a").result().path
    assert bits(service.create_sampling_client(path).result()) == answer(client)
    assert len(service._machine._kits) == 1  # the same weights, though its folder has two names
    monkeypatch.chdir(tmp_path)
    assert bits(connect("other").create_sampling_client(path).result()) == answer(client)


def test_a_state_that_names_no_model_wants_to_be_told(service, client, folder, tmp_path):
    path = client.save_state("a").result().path
    file = tmp_path / "run" / "weights" / "a" / "lora.safetensors"
    save_file(load_file(file), file, {"rank": "4", "alpha": "8.0"})
    for opened in (service.create_training_client_from_state, service.create_sampling_client):
        with pytest.raises(BackendError) as error:
            opened(path).result()
        one_line(error, f"{path} doesn't say which model it was trained on; give base_model")
        assert opened(path, base_model=str(folder)).result()


def test_weights_on_another_model_are_one_line(service, client, tmp_path):
    path = client.save_state("a").result().path
    smaller = str(make_tiny_llama(tmp_path / "smaller", layers=1))
    for opened in (service.create_training_client_from_state, service.create_sampling_client):
        with pytest.raises(BackendError) as error:
            opened(path, base_model=smaller).result()
        one_line(error, "which doesn't fit the model given")


def test_a_sampling_client_needs_weights_or_a_model(service):
    with pytest.raises(ConfigError) as error:
        service.create_sampling_client()
    one_line(error, "give model_path or base_model")
    for path in ("tinker://run/weights/nowhere", "tinker://run/sampler_weights/../../a"):
        with pytest.raises(BackendError) as error:
            service.create_sampling_client(path).result()
        one_line(error, f"no saved weights {path!r}")
    with pytest.raises(BackendError) as error:
        service.create_sampling_client(base_model="no such model").result()
    one_line(error, "model 'no such model' is neither a folder here nor a name")
