"""`forward_backward_custom` and `create_custom_loss`: losses that a script brings."""

import asyncio

import pytest
import tinker
import torch

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local import ServiceClient
from cookbook_plugin_local.machine import Options

ADAM = tinker.AdamParams(learning_rate=1e-2)
DATA = [
    tinker.Datum(tinker.ModelInput.from_ints(ids), {"target_tokens": [*ids[1:], 2], "weights": weights})
    for ids, weights in [([5, 6, 7], [0.0, 1.0, 2.0]), ([5, 6, 9, 30], [1.0, 0.5, 0.0, -1.0])]
]


@pytest.fixture
def connect(tmp_path, torch_threads):
    with torch_threads(1):
        services = []

        def new():
            services.append(ServiceClient(run_dir=tmp_path / "run", options=Options(torch.float32, 256, 8.0)))
            return services[-1]

        yield new
        for service in services:
            service.close("success")


@pytest.fixture
def service(connect):
    return connect()


def new_client(service, folder):
    return service.create_lora_training_client(str(folder), 4, 0).result()


def weighted(data, logprobs):
    """Cross-entropy, as a script would write it."""
    pairs = zip(data, logprobs, strict=True)
    losses = [-(datum.loss_fn_inputs["weights"].to_torch() * found).sum() for datum, found in pairs]
    return sum(losses), {"custom/first:sum": losses[0].item()}


def weighted_one(logprobs, weights):
    loss = -(logprobs * weights).sum()
    return loss, {"custom/seen:mean": logprobs.sum() * 0 + 4}


def after(client, first):
    """The metrics of `first`, which adds a gradient, and the weights after a step on it."""
    client.optim_step(ADAM).result()
    return first.result().metrics, {n: p.detach() for n, p in client._learner.lora.parameters.items()}


def test_a_loss_of_ones_own_gives_the_gradient_of_the_same_loss_by_name(service, folder):
    named, own, traced = (new_client(service, folder) for _ in range(3))
    handle = service.create_custom_loss(weighted_one, {"logprobs": 1, "weights": 1}).result()
    metrics, weights = after(named, named.forward_backward(DATA, "cross_entropy"))
    for client, loss, extra in [
        (own, weighted, {"custom/first:sum"}),
        (traced, handle, {"custom/seen:mean"}),
    ]:
        found, moved = after(client, client.forward_backward_custom(DATA, loss))
        assert found["loss:sum"] == pytest.approx(metrics["loss:sum"], rel=1e-5)
        assert set(found) == {"loss:sum", "surrogate_loss:sum"} | extra
        assert all(torch.allclose(weights[name], moved[name], atol=1e-5) for name in weights)


def test_the_older_call_style_gives_the_future(service, folder):
    client = new_client(service, folder)

    async def older():
        return await (await client.forward_backward_custom_async(DATA, weighted)).result_async()

    newer = new_client(service, folder).forward_backward_custom(DATA, weighted).result()
    assert asyncio.run(older()).metrics == newer.metrics


def test_what_a_loss_raises_is_raised_and_poisons_the_client(service, folder):
    client = new_client(service, folder)

    def broken(data, logprobs):
        raise KeyError("weigths")

    with pytest.raises(KeyError, match="weigths"):
        client.forward_backward_custom(DATA, broken).result()
    with pytest.raises(BackendError, match="an earlier request of this client failed"):
        client.optim_step(ADAM).result()


def test_what_cannot_be_a_custom_loss_is_refused_at_once_and_poisons_nothing(connect, service, folder):
    client = new_client(service, folder)
    foreign = connect().create_custom_loss(weighted_one, {"logprobs": 1, "weights": 1}).result()
    wide = service.create_custom_loss(weighted_one, {"logprobs": 2, "weights": 1}).result()
    for error, match, call in [
        (ConfigError, "no data", lambda: client.forward_backward_custom([], weighted)),
        (ConfigError, "of another service client", lambda: client.forward_backward_custom(DATA, foreign)),
        (ValueError, "declared logprobs with rank 2", lambda: client.forward_backward_custom(DATA, wide)),
        (
            ConfigError,
            "loss_type_input='logits': the loss always receives 'logprobs'",
            lambda: client.forward_backward_custom(DATA, weighted, loss_type_input="logits"),
        ),
    ]:
        with pytest.raises(error, match=match):
            call()
    assert client.forward_backward_custom(DATA, weighted, loss_type_input="logprobs").result().metrics
    with pytest.raises(ValueError, match="cannot be traced"):
        service.create_custom_loss(
            lambda logprobs: (logprobs.sum() if logprobs.sum() > 0 else 0, {}), {"logprobs": 1}
        ).result()
