"""`core/tinker` over HTTP, through the SDK that is installed: what a run says to a server, and that nothing
is lost on the way."""

from __future__ import annotations

import time

import pytest
from wire_codec import read_data
from wire_http import PROTOBUF, Answer
from wire_peer import Peer

from cookbook.runs import read_rows

OTHER_WAYS = {"pjwt_auth_enabled": True, "proto_compress_fwdbwd": True, "sample_use_retrieve_futures": True}
WEIGHTS = {"target_tokens": "int64", "weights": "float32"}
POLICY = {"target_tokens": "int64", "logprobs": "float32", "advantages": "float32"}
LOSSES = {
    "importance_sampling": (POLICY, {}),
    "ppo": (POLICY, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    "cispo": (POLICY, {"clip_low_threshold": 0.0, "clip_high_threshold": 5.0}),
    "gspo": (
        POLICY | {"sequence_ratio_mask": "float32"},
        {"clip_low_threshold": 1 - 3e-4, "clip_high_threshold": 1 + 4e-4},
    ),
    "dro": (POLICY, {"beta": 0.05}),
}
TRAINING = ("forward_backward", "optim_step", "save_weights", "save_weights_for_sampler")


def number(request):
    """The place of a training request in its client's order."""
    return request.body.seq_id if request.route == "forward_backward" else request.body["seq_id"]


@pytest.fixture
def said(run, kept):
    """`said(kind)`: a whole run over the wire, run once, and the peer that heard it."""

    def said(kind):
        if ("said", kind) not in kept:
            with Peer() as peer:
                kept["said", kind] = run(peer, kind), peer
        return kept["said", kind]

    return said


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_a_run_over_the_wire_is_the_run_in_this_process(said, engine, equal, kind):
    found, _ = said(kind)
    assert (found.code, found.err) == (0, "")
    assert equal(found, engine(kind))


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_it_is_the_same_run_where_the_server_asks_for_its_other_ways(run, engine, equal, kind):
    with Peer(OTHER_WAYS) as peer:
        found = run(peer, kind)
    assert (found.code, found.err) == (0, "")
    assert equal(found, engine(kind))
    assert peer.of("forward_backward")[0].headers["content-encoding"] == "zstd"
    assert bool(peer.of("retrieve_futures")) == (kind == "rl")


def test_a_run_uses_these_routes_and_no_others(said):
    _, peer = said("rl")
    routes = {f"{request.method} {request.route.split('/')[0]}" for request in peer.seen}
    assert routes == {
        *(f"post {name}" for name in TRAINING),
        *(f"post {name}" for name in ("create_session", "create_model", "get_info", "sessions")),
        *(f"post {name}" for name in ("create_sampling_session", "asample", "retrieve_future")),
        "get samplers",
        "delete training_runs",
    }
    assert [request.body["reason"] for request in peer.of("sessions/session-1/finish")] == [
        {"type": "success"}
    ]


def test_a_session_names_its_run_and_a_model_its_lora(said, tiny_model):
    found, peer = said("rl")
    (session,), (model,) = peer.of("create_session"), peer.of("create_model")
    assert session.body["user_metadata"] == {"run": found.name}
    assert model.body["base_model"] == str(tiny_model)
    assert {name: model.body["lora_config"][name] for name in ("rank", "seed")} == {"rank": 4, "seed": 0}


def test_training_samples_the_raw_distribution_and_each_reply_has_a_seed_of_its_own(said):
    _, peer = said("rl")
    drawn = [request.body for request in peer.of("asample") if not request.body["prompt_logprobs"]]
    params = [body["sampling_params"] for body in drawn]
    training = [each for each in params if each["temperature"] == 1]
    evaluating = [each for each in params if each["temperature"] == 0]
    assert (len(training), len(evaluating), len(params)) == (4 * 8, 3 * 3, 4 * 8 + 3 * 3)
    assert len({each["seed"] for each in training}) == 4 * 8
    for each in training:
        assert (each["top_k"], each["top_p"], each["max_tokens"]) == (-1, 1, 4)
        assert each["stop"]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_gradient_is_protobuf_with_the_loss_both_thresholds_and_its_inputs(run, peer, loss):
    inputs, config = LOSSES[loss]
    assert run(peer, "rl", f"loss={loss}", "steps=1", "max_lag=0", "kl_coef=0", "eval_every=0").code == 0
    (request,) = peer.of("forward_backward")
    assert request.headers["content-type"] == PROTOBUF
    assert request.body.loss_fn == loss
    assert dict(request.body.loss_fn_config) == config
    data = read_data(request.body)
    assert len(data) == 8
    for datum in data:
        assert {name: tensor.dtype for name, tensor in datum.loss_fn_inputs.items()} == inputs
        assert {len(tensor.to_numpy()) for tensor in datum.loss_fn_inputs.values()} == {
            datum.model_input.length
        }
    assert any(datum.loss_fn_inputs["advantages"].to_numpy().any() for datum in data)


def test_supervised_learning_sends_weights_and_evaluates_without_a_gradient(said):
    _, peer = said("sl")
    requests = peer.of("forward_backward")
    for request in requests:
        assert (request.body.loss_fn, dict(request.body.loss_fn_config)) == ("cross_entropy", {})
        for datum in read_data(request.body):
            assert {name: tensor.dtype for name, tensor in datum.loss_fn_inputs.items()} == WEIGHTS
    assert (
        sum(request.body.forward_only for request in requests) == 3 * 2
    )  # six conversations, batches of four
    steps = [request.body["adam_params"] for request in peer.of("optim_step")]
    assert [(step["learning_rate"], step["grad_clip_norm"]) for step in steps] == [(0.01, 0.5)] * 4


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_training_requests_come_once_each_and_in_order(said, kind):
    _, peer = said(kind)
    requests = peer.of(*TRAINING)
    assert [number(request) for request in requests] == list(range(1, len(requests) + 1))
    routes = [request.route for request in requests if not getattr(request.body, "forward_only", False)]
    steps = [at for at, route in enumerate(routes) if route == "optim_step"]
    assert [routes[at - 1] for at in steps] == ["forward_backward"] * 4


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_an_update_and_what_follows_it_are_submitted_before_a_result_is_awaited(run, peer, kind):
    """No result of a gradient is given before its update, and what comes after that, have come."""
    gradients, deadline = {}, time.monotonic() + 20

    def meddle(request, carry_out):
        answer = carry_out()
        if request.route == "forward_backward" and not request.body.forward_only:
            gradients[answer.body["request_id"]] = request.body.seq_id
        if request.route == "retrieve_future" and request.body["request_id"] in gradients:
            first = gradients[request.body["request_id"]]
            later = {number(other): other.route for other in peer.of(*TRAINING)}
            if (
                later.get(first + 1) != "optim_step" or first + 2 not in later
            ) and time.monotonic() < deadline:
                return Answer(408, {"type": "try_again"})
        return answer

    peer.meddle = meddle
    assert run(peer, kind, "steps=2", "eval_every=0").code == 0
    assert len(gradients) == 2
    assert time.monotonic() < deadline


def test_a_batch_that_the_sdk_sends_in_parts_trains_alike(run, engine, runs):
    with Peer({"fwdbwd_max_chunk_len": 3}) as peer:
        found = run(peer, "sl")
    assert found.code == 0
    sizes = {number(request): len(request.body.data) for request in peer.of("forward_backward")}
    assert set(sizes.values()) == {3, 1, 2}
    whole = engine("sl")
    for row, expected in zip(read_rows(runs / found.name), read_rows(runs / whole.name), strict=True):
        assert row["nll"] == pytest.approx(expected["nll"], rel=1e-5)
        assert row["tokens/trained"] == expected["tokens/trained"]


def test_a_state_is_saved_over_one_of_its_name(said):
    _, peer = said("rl")
    saved = peer.of("save_weights")
    assert [(request.body["path"], request.body["overwrite"]) for request in saved] == [
        ("000002", True),
        ("000004", True),
    ]


def test_what_no_rule_keeps_is_deleted_from_the_server(said):
    _, peer = said("rl")
    deleted = [request.route.split("/", 3)[3] for request in peer.of(method="delete")]
    assert sorted(deleted) == [
        "sampler_weights/000000",
        "sampler_weights/000001",
        "sampler_weights/000002",
        "weights/000002",
    ]


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_a_run_that_failed_goes_on_over_the_wire_to_the_same_bits(run, cook, engine, equal, peer, kind):
    def meddle(request, carry_out):
        updates = len(peer.of("optim_step"))
        if request.route == "retrieve_future" and updates == 4:
            return Answer(200, {"error": "the GPU is gone", "category": "server"})
        return carry_out()

    peer.meddle = meddle
    found = run(peer, kind, "keep_last=0")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert f"`cookbook resume {found.name}` goes on after step 2" in found.err
    del peer.meddle
    assert cook("resume", found.name).code == 0
    (load,) = peer.of("load_weights")
    assert load.body["optimizer"] is True
    assert equal(found, engine(kind, "keep_last=0"))


def test_weights_of_a_run_are_trained_further_under_a_fresh_optimizer(run, peer, engine, equal):
    first = run(peer, "sl")
    found = run(peer, "sl", f"load={first.name}", "seed=1")
    (load,) = peer.of("load_weights")
    assert load.body["optimizer"] is False
    assert equal(found, engine("sl", f"load={engine('sl').name}", "seed=1"))


def test_tokens_are_scored_by_the_reference_and_by_nobody_else(said):
    _, peer = said("rl")
    scored = [request.body for request in peer.of("asample") if request.body["prompt_logprobs"]]
    (reference,) = (
        request.body for request in peer.of("create_sampling_session") if "base_model" in request.body
    )
    assert len(scored) == 4 * 8
    assert {body["sampling_session_id"] for body in scored} == {
        f"session-1:sample:{reference['sampling_session_seq_id']}"
    }
