"""The clients: order, futures, failures, closing, saved weights; and the backend's config."""

import asyncio
import json
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import tinker
import torch

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.client import Options, ServiceClient

ADAM = tinker.AdamParams(learning_rate=1e-2)
PROMPT = tinker.ModelInput.from_ints([5, 6, 7])
GREEDY = tinker.SamplingParams(max_tokens=6, temperature=0, stop=[])
ENDLESS = tinker.SamplingParams(max_tokens=2000, stop=[], seed=0)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def connect(tmp_path):
    with ExitStack() as services:
        yield lambda run="run": services.enter_context(
            ServiceClient(tmp_path / run, Options(torch.float32, 256, 8.0))
        )


@pytest.fixture
def service(connect):
    return connect()


@pytest.fixture
def client(service, folder):
    return new_client(service, folder)


def new_client(service, folder, rank=4, seed=0):
    return service.create_lora_training_client(str(folder), rank, seed).result()


def datum(seed=0, weights=None):
    ids = np.random.default_rng(seed).integers(3, 259, 12).tolist()
    inputs = {"target_tokens": ids[1:] + [2], "weights": weights or [1.0] * 12}
    return tinker.Datum(tinker.ModelInput.from_ints(ids), inputs)


def train(client, seeds):
    for seed in seeds:
        client.forward_backward([datum(seed)], "cross_entropy")
        last = client.optim_step(ADAM)
    return last.result()


def answer(client):
    """What the weights say: greedy tokens and their log-probabilities."""
    return said(client.save_weights_and_get_sampling_client().result())


def said(sampler):
    [sequence] = sampler.sample(PROMPT, 1, GREEDY).result().sequences
    return sequence.tokens, sequence.logprobs


def hold(service):
    """Keeps the engine at a job until the event is set."""
    release = threading.Event()
    service._engine.submit(release.wait)
    return release


def one_line(error, text):
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_futures_can_be_awaited_and_waited_for(client):
    async def awaited():
        return await client.forward_backward([datum()], "cross_entropy")

    first = asyncio.run(awaited())
    second = client.forward_backward([datum()], "cross_entropy").result()
    assert first.metrics == second.metrics
    assert first.metrics["loss:sum"] > 0


def test_the_event_loop_goes_on_while_the_engine_works(service, client):
    async def main():
        release = hold(service)
        training = client.forward_backward([datum()], "cross_entropy")
        sampler = client.save_weights_and_get_sampling_client()
        waiting = [asyncio.ensure_future(f.result_async()) for f in (training, sampler)]
        for _ in range(50):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        release.set()
        output, sampler = await asyncio.gather(*waiting)
        return output, await sampler.sample(PROMPT, 1, GREEDY)

    output, sampled = asyncio.run(main())
    assert output.metrics["loss:sum"] > 0
    assert len(sampled.sequences[0].tokens) == 6


def test_requests_are_carried_out_in_the_order_of_the_calls(service, folder):
    patient, hasty = new_client(service, folder), new_client(service, folder)
    train(patient, [1])
    between = answer(patient)
    train(patient, [2])
    release = hold(service)
    for seed in (1, 2):
        hasty.forward_backward([datum(seed)], "cross_entropy")
        hasty.optim_step(ADAM)
        if seed == 1:
            snapshot = hasty.save_weights_and_get_sampling_client()
    release.set()
    assert said(snapshot.result()) == between
    assert answer(hasty) == answer(patient) != between


def test_a_failure_poisons_what_comes_after_it_in_this_client_only(service, client, folder):
    other, before = new_client(service, folder), answer(client)
    first = client.forward_backward([datum()], "no_such_loss")
    later = [client.optim_step(ADAM), client.save_state("a"), client.save_weights_and_get_sampling_client()]
    with pytest.raises(BackendError) as error:
        first.result()
    one_line(error, "no loss 'no_such_loss'")
    for future in [*later, client.forward_backward([datum()], "cross_entropy")]:
        with pytest.raises(BackendError) as error:
            future.result()
        one_line(error, "an earlier request of this client failed: local/torch has no loss 'no_such_loss'")
    assert answer(other) == before
    train(other, [0])


def test_a_loss_fn_config_is_refused_at_once_and_poisons_nothing(client):
    with pytest.raises(BackendError) as error:
        client.forward_backward([datum()], "cross_entropy", {"clip_low_threshold": 0.8})
    one_line(error, "cross_entropy takes no loss_fn_config")
    train(client, [0])


def test_closing_fails_what_is_queued_and_ends_the_thread(service, client, monkeypatch):
    sampler, engine, done = client.save_weights_and_get_sampling_client().result(), service._engine, []
    thread, join = engine._thread, engine._thread.join
    release = hold(service)
    queued = [
        client.forward_backward([datum()], "cross_entropy"),
        sampler.sample(PROMPT, 2, GREEDY),
        client.optim_step(ADAM),
    ]
    engine.submit(lambda: done.append("a job that was still queued"))
    monkeypatch.setattr(thread, "join", lambda: (release.set(), join()))
    service.close("errored")
    for future in queued:
        with pytest.raises(BackendError) as error:
            future.result(timeout=0)
        one_line(error, "local/torch was closed before this was done")
    assert done == []
    assert thread not in threading.enumerate()
    assert service.close("errored", "again, which changes nothing").result() is None


def test_closing_fails_a_sample_that_is_under_way(service, client):
    sampler = client.save_weights_and_get_sampling_client().result()
    endless = sampler.sample(PROMPT, 1, ENDLESS)
    sampler.sample(PROMPT, 1, GREEDY).result()  # the first has joined by now
    service.close("success")
    with pytest.raises(BackendError, match="closed before this was done"):
        endless.result(timeout=0)


def test_leaving_the_block_closes_also_after_an_error(tmp_path):
    service = ServiceClient(tmp_path / "run", Options(torch.float32, 256, 8.0))
    with pytest.raises(KeyError), service:
        raise KeyError
    assert service._engine._thread not in threading.enumerate()


def test_use_after_close_is_one_line(service, client, folder):
    sampler = client.save_weights_and_get_sampling_client().result()
    service.close("success")
    for call in (
        lambda: client.forward_backward([datum()], "cross_entropy"),
        lambda: client.optim_step(ADAM),
        lambda: sampler.sample(PROMPT, 1, GREEDY),
        lambda: service.create_lora_training_client(str(folder)),
    ):
        with pytest.raises(BackendError) as error:
            call()
        one_line(error, "this client is closed; connect anew")


def test_cancelling_what_awaits_a_sample_frees_the_engine(service, client):
    def rows(sampler):
        """How many sequences are being decoded, asked between two steps."""
        return service._engine.submit(lambda: len(sampler._decoder._rows)).result()

    async def main():
        sampler = await client.save_weights_and_get_sampling_client()
        endless = asyncio.ensure_future(sampler.sample(PROMPT, 8, ENDLESS).result_async())
        await asyncio.sleep(0)
        await sampler.sample(PROMPT, 1, GREEDY)
        assert rows(sampler) == 8
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        await sampler.sample(PROMPT, 1, GREEDY)
        return rows(sampler)

    assert asyncio.run(main()) == 0


def test_a_request_that_cannot_be_leaves_those_beside_it_alone(service, client):
    sampler = client.save_weights_and_get_sampling_client().result()
    release = hold(service)
    fine = sampler.sample(PROMPT, 1, GREEDY)
    with pytest.raises(ConfigError):
        sampler.sample(tinker.ModelInput.from_ints([5, 100_000]), 1, GREEDY)
    release.set()
    assert len(fine.result().sequences[0].tokens) == 6


def test_a_sampling_client_keeps_its_weights_while_training_goes_on(client):
    sampler = client.save_weights_and_get_sampling_client().result()
    before = said(sampler)
    train(client, [1, 2])
    assert said(sampler) == before != answer(client)


def test_clients_of_one_model_share_its_weights_and_equal_seeds_are_equal(service, folder):
    a, b, c = (new_client(service, folder, seed=seed) for seed in (3, 3, 4))
    assert a._learner.model is b._learner.model
    for client in (a, b, c):
        train(client, [1])
    assert answer(a) == answer(b) != answer(c)


def test_a_state_is_saved_under_the_run_and_loaded_from_the_run_beside_it(connect, folder, tmp_path):
    first, second = (new_client(connect(run), folder, seed=i) for i, run in enumerate(["one", "two"]))
    train(first, [1])
    path = first.save_state("step-1").result().path
    assert path == "tinker://one/weights/step-1"
    assert (tmp_path / "one" / "weights" / "step-1").is_dir()
    train(second, [5])
    second.load_state_with_optimizer(path).result()
    assert answer(first) == answer(second)
    for client in (first, second):
        train(client, [2])
    assert answer(first) == answer(second)
    second.load_state(path).result()  # with a fresh optimizer, which takes another step
    train(second, [2])
    assert answer(first) != answer(second)


@pytest.mark.parametrize(
    "path",
    [
        "tinker://run/weights/nowhere",
        "tinker://other/weights/there",
        "tinker://run/sampler_weights/there",
        "tinker://run/weights/there/deeper",
        "tinker://run/weights",
        "tinker://../run/weights/there",
        "run/weights/there",
        "",
    ],
)
def test_a_path_that_is_not_there_is_one_line(client, path):
    client.save_state("there").result()
    with pytest.raises(BackendError) as error:
        client.load_state(path).result()
    one_line(error, f"no saved weights {path!r}")


def test_a_state_is_saved_again_under_its_name_only_if_asked(client):
    path = client.save_state("a").result().path
    train(client, [1])
    assert client.save_state("a", overwrite=True).result().path == path
    trained = answer(client)
    client.load_state(path).result()
    assert answer(client) == trained
    with pytest.raises(BackendError) as error:
        client.save_state("a").result()
    one_line(error, "is already there")


@pytest.mark.parametrize("name", ["", "a/b", "../a", "..", "/a"])
def test_a_state_needs_a_plain_name(client, name):
    with pytest.raises(BackendError) as error:
        client.save_state(name)
    one_line(error, "isn't a name")


def test_another_rank_is_refused_in_one_line(service, client, folder):
    path = client.save_state("a").result().path
    with pytest.raises(BackendError) as error:
        new_client(service, folder, rank=2).load_state(path).result()
    one_line(error, "a LoRA of rank 4")


def test_an_unknown_model_is_refused_at_once_in_one_line(service):
    for call in (service.create_lora_training_client, TorchBackend().tokenizer):
        with pytest.raises(BackendError) as error:
            call("no such model")
        one_line(error, "model 'no such model' is neither a folder here nor a name")


def test_a_model_that_cannot_be_run_fails_in_the_future_and_not_the_engine(service, folder, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mamba"}
    (wrong / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (wrong / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BackendError, match="'mamba'"):
        service.create_lora_training_client(str(wrong)).result()
    train(new_client(service, folder), [0])


# The backend's config


def test_a_backend_connects_with_its_options(folder, tmp_path):
    backend = TorchBackend(dtype="float32", threads=1, token_budget=64, lora_alpha=4.0)
    with backend.connect(tmp_path / "run") as service:
        client = new_client(service, folder)
        assert torch.get_num_threads() == 1
        assert (client._learner.model.dtype, client._learner.token_budget) == (torch.float32, 64)
        assert client._learner.lora.alpha == 4.0
        assert client.get_tokenizer().decode(client.get_tokenizer().encode("Hi")) == "Hi"


def test_the_description_names_what_bits_depend_on():
    facts = TorchBackend(threads=1).describe()
    assert set(facts) == {"dtype", "threads", "torch", "processor", "cpu_capability"}
    assert facts["threads"] == 1  # also before it connects
    assert facts["dtype"] in ("bfloat16", "float32")
    assert TorchBackend().describe()["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("avx512", "amx", "dtype"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_dtype_auto_takes_what_the_processor_multiplies(monkeypatch, avx512, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert TorchBackend().describe()["dtype"] == dtype
    assert TorchBackend(dtype="float32").describe()["dtype"] == "float32"


@pytest.mark.parametrize("options", [{"threads": -1}, {"token_budget": 0}, {"dtype": "float16"}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises((ConfigError, TypeError)) as error:
        TorchBackend(**options)
    one_line(error, next(iter(options)))
