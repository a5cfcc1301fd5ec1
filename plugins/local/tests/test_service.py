"""A service client as scripts have it: no arguments, both call styles, its own runs, and their listing."""

import asyncio
import os
from contextlib import ExitStack
from datetime import UTC, datetime

import numpy as np
import pytest
import tinker
import torch
from tinker import types

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local import RestClient, ServiceClient
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.machine import Options

ADAM = tinker.AdamParams(learning_rate=1e-2)
PROMPT = tinker.ModelInput.from_ints([5, 6, 7])
OPTIONS = Options(torch.float32, 256, 8.0)


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def connect():
    with ExitStack() as services:
        yield lambda **kw: services.enter_context(ServiceClient(**{"options": OPTIONS} | kw))


@pytest.fixture
def service(connect):
    return connect()


@pytest.fixture
def client(service, folder):
    return service.create_lora_training_client(str(folder), 4, 0).result()


def datum(seed=0):
    ids = np.random.default_rng(seed).integers(3, 259, 12).tolist()
    return tinker.Datum(
        tinker.ModelInput.from_ints(ids), {"target_tokens": ids[1:] + [2], "weights": [1.0] * 12}
    )


def train(client, seeds):
    for seed in seeds:
        client.forward_backward([datum(seed)], "cross_entropy")
        client.optim_step(ADAM).result()


def answer(client):
    """What the weights say of given tokens."""
    sampler = client.save_weights_and_get_sampling_client().result()
    return sampler.compute_logprobs(tinker.ModelInput.from_ints(list(range(5, 40)))).result()


def parameters(client):
    return {name: p.detach().clone() for name, p in client._learner.lora.parameters.items()}


# As scripts write it


def test_without_arguments_it_has_the_backends_defaults_and_the_runs_of_the_command_line(runs):
    with ServiceClient() as service:
        assert service._machine.options == TorchBackend().options()
        assert service.get_console_url() == runs.as_uri()


def test_what_has_no_meaning_here_is_accepted_and_what_is_unknown_is_warned_of(connect):
    connect(
        project_id="p", display_name="d", base_url="http://x", api_key="tml-x", default_headers_overrides={}
    )
    with pytest.warns(FutureWarning, match="ServiceClient ignores unsupported arguments: colour"):
        connect(colour="red")


def test_the_older_call_style_gives_what_the_newer_gives(service, folder):
    async def older():
        client = await service.create_lora_training_client_async(base_model=str(folder), rank=4, seed=0)
        forward = await client.forward_backward_async([datum()], "cross_entropy")
        step = await client.optim_step_async(ADAM)
        output = await forward.result_async()
        await step.result_async()
        sampler = await client.save_weights_and_get_sampling_client_async()
        assert await sampler.get_base_model_async() == (await client.get_info_async()).model_name
        scores = await sampler.compute_logprobs_async(PROMPT)
        params = tinker.SamplingParams(max_tokens=4, stop=[], seed=1)
        return output.metrics, scores, (await sampler.sample_async(PROMPT, 1, params)).sequences[0].tokens

    def newer():
        client = service.create_lora_training_client(base_model=str(folder), rank=4, seed=0).result()
        forward = client.forward_backward([datum()], "cross_entropy")
        client.optim_step(adam_params=ADAM).result()
        sampler = client.save_weights_and_get_sampling_client().result()
        params = tinker.SamplingParams(max_tokens=4, stop=[], seed=1)
        sampled = sampler.sample(PROMPT, 1, params).result().sequences[0].tokens
        return forward.result().metrics, sampler.compute_logprobs(PROMPT).result(), sampled

    assert asyncio.run(older()) == newer()


def test_the_future_of_a_client_can_be_used_as_the_client(service, folder):
    client = service.create_lora_training_client(str(folder), 4, 0)
    with pytest.warns(FutureWarning, match="Using the future as the TrainingClient is deprecated"):
        output = client.forward_backward([datum()], "cross_entropy").result()
    assert output.metrics["loss:sum"] > 0
    assert client.result().model_id.startswith("tinker-")


def test_the_tokenizer_is_of_transformers_kind(service, client):
    tokenizer = client.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hi", add_special_tokens=False)) == "Hi"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert (
        service.create_sampling_client(base_model=str(client._base.folder)).result().get_tokenizer()
        is tokenizer
    )


def test_services_of_one_process_share_a_model(connect, folder):
    one, two = (connect().create_lora_training_client(str(folder)).result() for _ in range(2))
    assert one._learner.model is two._learner.model


def test_an_alias_stands_for_its_model_wherever_it_is_named(runs, folder):
    class Aliased(ServiceClient):
        aliases = {"org/name": str(folder)}

    with Aliased(options=OPTIONS) as service:
        client = service.create_lora_training_client("org/name", 4, 0).result()
        info, path = client.get_info(), client.save_state("a").result().path
        rest = service.create_rest_client()
        assert (info.model_name, info.model_data.model_name, info.lora_rank) == ("org/name", "org/name", 4)
        assert rest.get_training_run_by_tinker_path(path).result().base_model == "org/name"
        assert rest.get_weights_info_by_tinker_path(path).result().base_model == "org/name"
        assert service.create_sampling_client(path).result().get_base_model() == "org/name"
        models = service.get_server_capabilities().supported_models
        assert ("org/name", 2048) in [(model.model_name, model.max_context_length) for model in models]
    assert RestClient().get_weights_info_by_tinker_path(path).result().base_model == str(folder)


# What is trained


@pytest.mark.parametrize(("part", "moved"), [("attn", {"q", "k", "v", "o"}), ("mlp", {"gate", "up", "down"})])
def test_only_the_parts_that_were_asked_for_are_trained_and_still_after_a_resume(
    service, folder, part, moved
):
    kind = {"train_attn": part == "attn", "train_mlp": part == "mlp"}
    client = service.create_lora_training_client(str(folder), 4, 0, **kind).result()
    before = parameters(client)
    train(client, [1])
    path = client.save_state("a").result().path
    resumed = service.create_training_client_from_state_with_optimizer(path).result()
    train(resumed, [2])
    train(client, [2])
    changed = {
        name.split(".")[1] for name, p in parameters(resumed).items() if not torch.equal(p, before[name])
    }
    assert changed == moved
    assert answer(resumed) == answer(client)
    info = RestClient().get_weights_info_by_tinker_path(path).result()
    assert (info.train_attn, info.train_mlp, info.train_unembed) == (part == "attn", part == "mlp", False)


def test_what_cannot_be_trained_is_one_line(service, client, folder):
    muon = tinker.DimuonOptimizerConfig()
    for wrong, match in [
        (
            lambda: service.create_lora_training_client(str(folder), optimizer=muon),
            "'dimuon': local/torch has Adam",
        ),
        (
            lambda: service.create_training_client_from_state("tinker://r/weights/a", optimizer=muon),
            "'dimuon'",
        ),
        (
            lambda: service.create_lora_training_client(str(folder), train_attn=False, train_mlp=False),
            "unembedding",
        ),
        (lambda: client.optim_step(tinker.DimuonParams(learning_rate=1.0)), "DimuonParams; local/torch has"),
        (lambda: client.optim_step(), "give tinker.AdamParams, once"),
        (lambda: client.optim_step(ADAM, adam_params=ADAM), "give tinker.AdamParams, once"),
        (lambda: client.save_weights_and_get_sampling_client(kind="live"), "'snapshot' or 'inflight'"),
        (
            lambda: client.save_weights_and_get_sampling_client(record_stability_info=True),
            "only the hosted service",
        ),
        (
            lambda: service.create_sampling_client(base_model=str(folder), record_stability_info=True),
            "stable",
        ),
    ]:
        with pytest.raises(ConfigError, match=match) as error:
            wrong()
        assert "\n" not in str(error.value)
    train(client, [0])
    fine = service.create_lora_training_client(str(folder), optimizer=tinker.AdamOptimizerConfig())
    assert fine.result()


def test_a_state_is_put_in_the_place_of_a_clients_weights(service, folder, client):
    train(client, [1, 2])
    path = client.save_state("two").result().path
    train(client, [3])
    after = answer(client)
    other = service.create_lora_training_client(str(folder), 4, seed=9).result()
    train(other, [7])
    assert other.load_state_with_optimizer(path).result().path == path
    train(other, [3])
    assert answer(other) == after
    assert other.load_state(path).result().model_id == other.model_id
    train(other, [3])
    assert answer(other) != after  # with a fresh optimizer
    narrow = service.create_lora_training_client(str(folder), 3, seed=9).result()
    with pytest.raises(BackendError, match="is a LoRA of rank 4, this client's is 3"):
        narrow.load_state(path).result()


# What is kept


def test_each_training_client_has_a_run_of_its_own_that_a_later_service_finds(connect, folder, runs):
    first, second = (connect().create_lora_training_client(str(folder), 4, seed).result() for seed in (0, 1))
    train(second, [1])
    paths = [client.save_state("final").result().path for client in (first, second)]
    assert [path.split("/")[2] for path in paths] == [first.model_id, second.model_id]
    assert sorted(run.name for run in runs.iterdir()) == sorted({first.model_id, second.model_id})
    later = connect()
    for client, path in zip((first, second), paths, strict=True):
        assert answer(later.create_training_client_from_state(path).result()) == answer(client)
    sampler, other = first.create_sampling_client(paths[1]), later.create_sampling_client(paths[0])
    a, b = (made.result().compute_logprobs(PROMPT).result() for made in (sampler, other))
    assert a != b


def test_nothing_is_written_before_something_is_saved(client, runs):
    train(client, [1])
    answer(client)
    assert not runs.exists()


def test_saved_weights_are_listed_the_newest_first(connect, folder, runs):
    service = connect(user_metadata={"project": "x"})
    one, two = (
        service.create_lora_training_client(str(folder), rank, user_metadata={"rank": str(rank)}).result()
        for rank in (2, 3)
    )
    saved = [
        one.save_state("a", user_metadata={"step": "1"}).result().path,
        two.save_weights_for_sampler("b").result().path,
        one.save_weights_for_sampler("c").result().path,
    ]
    for age, path in zip((30, 20, 10), saved, strict=True):
        file = runs / path.removeprefix("tinker://") / "lora.safetensors"

        os.utime(file, (1e9 - age, 1e9 - age))
    rest = RestClient()
    listed = rest.list_user_checkpoints().result()
    assert [kept.tinker_path for kept in listed.checkpoints] == saved[::-1]
    assert [kept.checkpoint_type for kept in listed.checkpoints] == ["sampler", "sampler", "training"]
    assert listed.checkpoints[2].user_metadata == {"step": "1"}
    assert listed.checkpoints[0].time == datetime.fromtimestamp(1e9 - 10, UTC)
    second = rest.list_user_checkpoints(limit=1, offset=1).result()
    assert [kept.tinker_path for kept in second.checkpoints] == [saved[1]]
    assert second.cursor == types.Cursor(offset=1, limit=1, total_count=3)

    found = rest.list_training_runs().result().training_runs
    assert [(run.training_run_id, run.lora_rank) for run in found] == [(one.model_id, 2), (two.model_id, 3)]
    assert found[0].user_metadata == {"project": "x", "rank": "2"}
    assert found[0].last_checkpoint.checkpoint_id == "weights/a"
    assert found[0].last_sampler_checkpoint.checkpoint_id == "sampler_weights/c"
    assert found[1].last_checkpoint is None
    assert rest.get_training_run(one.model_id).result() == found[0]
    assert asyncio.run(rest.get_training_run_by_tinker_path_async(saved[2])) == found[0]
    of_one = rest.list_checkpoints(one.model_id).result().checkpoints
    assert [kept.tinker_path for kept in of_one] == [saved[2], saved[0]]


def test_what_is_deleted_is_listed_no_more_and_what_is_kept_never_expires(client):
    rest = RestClient()
    paths = [client.save_state(name, ttl_seconds=1).result().path for name in ("a", "b")]
    rest.set_checkpoint_ttl_from_tinker_path(paths[0], 1).result()
    assert rest.delete_checkpoint(client.model_id, "weights/b").result() is None
    [kept] = rest.list_checkpoints(client.model_id).result().checkpoints
    assert (kept.tinker_path, kept.expires_at) == (paths[0], None)


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda rest: rest.get_training_run("none"), "no training run 'none' with saved weights under"),
        (lambda rest: rest.list_checkpoints("../x"), "no training run '../x' with saved weights under"),
        (lambda rest: rest.get_weights_info_by_tinker_path("tinker://x/weights/a"), "no saved weights"),
        (lambda rest: rest.get_training_run_by_tinker_path("tinker://x/weights/a"), "no saved weights"),
        (
            lambda rest: rest.set_checkpoint_ttl_from_tinker_path("tinker://x/weights/a", None),
            "no saved weights",
        ),
        (lambda rest: rest.delete_checkpoint("x", "weights/a"), "no saved weights"),
    ],
)
def test_what_is_not_there_is_an_error_of_tinkers_kind_in_the_future(ask, line):
    future = ask(RestClient())
    with pytest.raises(tinker.TinkerError, match=line) as error:
        future.result()
    assert isinstance(error.value, BackendError) and "\n" not in str(error.value)


def test_there_is_nothing_where_nothing_was_saved():
    assert RestClient().list_training_runs().result().training_runs == []
    assert RestClient().list_user_checkpoints().result().cursor.total_count == 0
