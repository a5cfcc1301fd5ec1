"""The clients: order, futures, failures, closing, scoring."""

import asyncio
import json
import threading
import weakref
from contextlib import ExitStack

import numpy as np
import pytest
import tinker
import torch

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.client import ServiceClient
from cookbook_plugin_local.machine import Options

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


def bits(sampler):
    """All that may come out of a sampler: samples, their log-probabilities, those of given tokens."""
    params = tinker.SamplingParams(max_tokens=20, stop=[], seed=3)
    sampled = sampler.sample(PROMPT, 3, params)
    given = sampler.compute_logprobs(tinker.ModelInput.from_ints(list(range(5, 40))))
    return [(s.tokens, s.logprobs) for s in sampled.result().sequences], given.result()


def hold(service):
    """Keeps the engine at a job until the event is set."""
    release = threading.Event()
    service._machine.engine.submit(release.wait)
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
    first = client.forward_backward([tinker.Datum(PROMPT, {})], "cross_entropy")
    later = [client.optim_step(ADAM), client.save_state("a"), client.save_weights_and_get_sampling_client()]
    with pytest.raises(BackendError) as error:
        first.result()
    one_line(error, "cross_entropy needs loss_fn_inputs['target_tokens']")
    for future in [*later, client.forward_backward([datum()], "cross_entropy")]:
        with pytest.raises(BackendError) as error:
            future.result()
        one_line(error, "an earlier request of this client failed: cross_entropy needs")
    assert answer(other) == before
    train(other, [0])


def test_a_loss_or_a_setting_that_is_not_there_is_refused_at_once_and_poisons_nothing(client):
    for call in (client.forward, client.forward_backward):
        with pytest.raises(BackendError) as error:
            call([datum()], "cross_entropy", {"clip_low_threshold": 0.8})
        one_line(error, "cross_entropy takes no loss_fn_config")
        with pytest.raises(BackendError) as error:
            call([datum()], "no_such_loss")
        one_line(error, "no loss 'no_such_loss'")
    train(client, [0])


def test_the_settings_of_a_loss_reach_its_formula(client):
    inputs = {"target_tokens": [6, 7, 8], "logprobs": [-9.0] * 3, "advantages": [1.0] * 3}
    judged = tinker.Datum(PROMPT, inputs)  # far more likely now than when they were sampled: clipped
    for clip in (1.2, 1.5):
        for call in (client.forward, client.forward_backward):
            output = call([judged], "ppo", {"clip_high_threshold": clip}).result()
            assert output.metrics["loss:sum"] == pytest.approx(-3 * clip)


def test_forward_is_forward_backward_without_the_gradient(client):
    ahead = client.forward([datum(weights=[0.0] * 6 + [1.0] * 6)], "cross_entropy").result()
    output = client.forward_backward([datum(weights=[0.0] * 6 + [1.0] * 6)], "cross_entropy").result()
    assert ahead.metrics["loss:sum"] == pytest.approx(output.metrics["loss:sum"])
    all_of_them, some = (o.loss_fn_outputs[0]["logprobs"].to_numpy() for o in (ahead, output))
    assert (all_of_them < 0).all()
    assert all_of_them[6:] == pytest.approx(some[6:]) and (some[:6] == 0).all()


def test_closing_fails_what_is_queued_and_ends_the_thread(service, client, monkeypatch):
    sampler, engine, done = (
        client.save_weights_and_get_sampling_client().result(),
        service._machine.engine,
        [],
    )
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
    service = ServiceClient(run_dir=tmp_path / "run", options=Options(torch.float32, 256, 8.0))
    with pytest.raises(KeyError), service:
        raise KeyError
    assert service._machine.engine._thread not in threading.enumerate()


def test_use_after_close_is_one_line(service, client, folder):
    sampler = client.save_weights_and_get_sampling_client().result()
    service.close("success")
    for call in (
        lambda: client.forward_backward([datum()], "cross_entropy"),
        lambda: client.optim_step(ADAM),
        lambda: sampler.sample(PROMPT, 1, GREEDY),
        lambda: sampler.compute_logprobs(PROMPT),
        lambda: service.create_lora_training_client(str(folder)),
        lambda: service.create_sampling_client(base_model=str(folder)),
        lambda: service.create_rest_client().delete_checkpoint_from_tinker_path("tinker://run/weights/a"),
    ):
        with pytest.raises(BackendError) as error:
            call()
        one_line(error, "this client is closed; connect anew")


def test_cancelling_what_awaits_a_sample_frees_the_engine(service, client):
    def rows(sampler):
        """How many sequences are being decoded, asked between two steps."""
        return service._machine.engine.submit(lambda: len(sampler._decoder._rows())).result()

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


def test_a_version_that_nobody_holds_takes_its_cache_along(service, client):
    sampler = client.save_weights_and_get_sampling_client().result()
    sampler.sample(tinker.ModelInput.from_ints(list(range(5, 75))), 1, GREEDY).result()
    cached = next(iter(sampler._decoder.prefixes._blocks.values()))[1]
    gone = weakref.ref(cached)
    del sampler, cached
    for _ in range(2):  # the engine holds what it was at until it is at something else
        service._machine.engine.submit(lambda: None).result()
    assert gone() is None


def test_clients_of_one_model_share_its_weights_and_equal_seeds_are_equal(service, folder):
    a, b, c = (new_client(service, folder, seed=seed) for seed in (3, 3, 4))
    assert a._learner.model is b._learner.model
    for client in (a, b, c):
        train(client, [1])
    assert answer(a) == answer(b) != answer(c)


# Log-probabilities of given tokens


def test_log_probabilities_can_be_awaited_and_the_first_has_none(client):
    sampler = client.save_weights_and_get_sampling_client().result()
    whole = sampler.compute_logprobs(PROMPT).result()
    assert whole[0] is None and len(whole) == 3 and all(x < 0 for x in whole[1:])

    async def awaited():
        return await sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=1)

    assert asyncio.run(awaited()) == [None, None, whole[2]]


def test_scoring_goes_on_beside_sampling(service, client):
    sampler = client.save_weights_and_get_sampling_client().result()
    alone = bits(sampler)
    release = hold(service)
    endless = sampler.sample(PROMPT, 1, ENDLESS)
    scored = [sampler.compute_logprobs(tinker.ModelInput.from_ints(list(range(5, 40)))) for _ in range(3)]
    release.set()
    assert [s.result() for s in scored] == [alone[1]] * 3
    assert endless.future().cancel()
    assert bits(sampler) == alone


def test_cancelling_a_score_takes_it_out_of_the_queue(service, client):
    sampler = client.save_weights_and_get_sampling_client().result()
    release = hold(service)
    gone, stays = sampler.compute_logprobs(PROMPT), sampler.compute_logprobs(PROMPT)
    assert gone.future().cancel()
    release.set()
    assert len(stays.result()) == 3
    assert not service._machine.engine.submit(lambda: sampler._decoder.busy).result()


def test_what_cannot_be_scored_is_refused_at_once(client):
    sampler = client.save_weights_and_get_sampling_client().result()
    for prompt, last_n in [([], None), ([5, 100_000], None), ([5, 6], 2)]:
        with pytest.raises(ConfigError):
            sampler.compute_logprobs(tinker.ModelInput.from_ints(prompt), last_n)


def test_the_oldest_versions_batch_is_decoded_first(service, client):
    old, new = (client.save_weights_and_get_sampling_client().result() for _ in range(2))
    release, order = hold(service), []
    for sampler, name, count in [(new, "new", 2), (old, "old", 30)]:
        params = tinker.SamplingParams(max_tokens=count, stop=[], seed=0)
        future = sampler.sample(PROMPT, 1, params).future()
        future.add_done_callback(lambda _, name=name: order.append(name))
    release.set()
    service._machine.engine.submit(lambda: None).result()
    bits(new)
    assert order == ["old", "new"]


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
