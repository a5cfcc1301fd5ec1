"""What goes wrong between a run and its server: what passes by itself, and what ends the run in one line."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading

import pytest
from tinker.proto import tinker_public_pb2 as pb
from wire_http import DROPPED, Answer

from cookbook.backends import service
from cookbook.backends.base import told

BRIEF = {
    "rl": ("steps=1", "max_lag=0", "kl_coef=0", "eval_every=0"),
    "sl": ("steps=1", "eval_every=0"),
}


def refused(status, detail, **headers):
    return Answer(
        status, {"detail": detail}, {name.replace("_", "-"): value for name, value in headers.items()}
    )


# What passes by itself


SOON = {"retry_after_ms": "5"}
TRAINING = ("create_session", "create_model", "get_info", "forward_backward", "optim_step", "retrieve_future")
PASSING = {  # each: the kind of run, the routes whose first request fails, how, and whether after the work
    "too many requests, and when to come again": (
        "sl",
        TRAINING[:5],
        refused(429, "slow down", **SOON),
        False,
    ),
    "too many requests": ("rl", ("asample", "retrieve_future"), refused(429, "slow down"), False),
    "an error before the work": ("sl", TRAINING, refused(503, "busy", **SOON), False),
    "an error after the work": (
        "rl",
        (*TRAINING[2:], "save_weights_for_sampler"),
        refused(500, "oh", **SOON),
        True,
    ),
    "an answer that is lost": ("rl", (*TRAINING[3:], "asample"), DROPPED, True),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_fails_for_a_moment_is_sent_again_and_done_once(run, engine, equal, peer, name):
    kind, routes, answer, after_the_work = PASSING[name]
    waiting, failed = set(routes), []

    def meddle(request, carry_out):
        if request.route not in waiting:
            return carry_out()
        waiting.discard(request.route)
        failed.append(request)
        if after_the_work:
            carry_out()
        return answer

    peer.meddle = meddle
    found = run(peer, kind, *BRIEF[kind])
    assert (found.code, found.err) == (0, "")
    assert len(failed) == len(routes)
    for request in failed:
        assert [other.contents for other in peer.of(request.route)].count(request.contents) >= 2
    assert equal(found, engine(kind, *BRIEF[kind]))


@pytest.mark.parametrize("status", [408, 200])
def test_a_result_that_is_not_ready_is_asked_for_again(run, engine, equal, peer, status):
    asked = set()

    def meddle(request, carry_out):
        if request.route != "retrieve_future" or request.raw in asked:
            return carry_out()
        asked.add(request.raw)
        return Answer(status, {"type": "try_again", "queue_state": "active"})

    peer.meddle = meddle
    found = run(peer, "rl", *BRIEF["rl"])
    assert (found.code, found.err) == (0, "")
    assert equal(found, engine("rl", *BRIEF["rl"]))


def test_a_sample_whose_result_is_lost_is_drawn_again(run, engine, equal, peer):
    def meddle(request, carry_out):
        if request.route == "retrieve_future" and peer.of("asample") and not lost:
            lost.append(request)
            return refused(410, "gone")
        return carry_out()

    lost, peer.meddle = [], meddle
    found = run(peer, "rl", *BRIEF["rl"])
    assert (found.code, found.err) == (0, "")
    assert equal(found, engine("rl", *BRIEF["rl"]))


def test_telemetry_that_is_refused_is_nobodys_news(run, peer):
    peer.meddle = lambda request, carry_out: (
        refused(403, "no") if request.route == "telemetry" else carry_out()
    )
    found = run(peer, "sl", *BRIEF["sl"])
    assert (found.code, found.err) == (0, "")


# What ends the run in one line


def trained(peer):
    return bool(peer.of("optim_step"))


ENDING = {
    "a bad key": (
        "client/config",
        None,
        refused(401, "Invalid API key"),
        "AuthenticationError.*check TINKER_",
    ),
    "a key that is revoked": ("", trained, refused(401, "Invalid API key"), "401.*check TINKER_API_KEY"),
    "an unknown model": ("create_model", None, refused(404, "no model m"), "no model m.*`tinker model list`"),
    "no more credit": ("create_model", None, refused(403, "buy some"), "PermissionDeniedError.*buy some"),
    "a refused update": ("optim_step", trained, refused(422, "bad\nbody"), "UnprocessableEntityError"),
    "an expired session": ("", trained, refused(410, "session-1 has expired"), "session-1 has expired"),
    "a lost result": ("retrieve_future", trained, refused(410, "gone"), "RetryableException.*expired"),
    "a result that isn't there": ("retrieve_future", trained, refused(404, "gone"), "404.*check model="),
    "a failed request": (
        "retrieve_future",
        trained,
        Answer(200, {"error": "out of\nmemory", "category": "server"}),
        "RequestFailedError: Request failed: out of memory",
    ),
    "a server that is older": (
        "retrieve_future",
        trained,
        Answer(200, {"loss_fn_outputs": []}),
        "only supports as proto",
    ),
    "nonsense": ("retrieve_future", trained, Answer(200, b"nonsense"), "Proto deserialization failed"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("sl", name) for name in ENDING), ("rl", "a key that is revoked")]
)
def test_what_cannot_go_on_is_one_line_that_says_what_to_do(run, peer, kind, name):
    route, when, answer, line = ENDING[name]

    def meddle(request, carry_out):
        here = request.route == route or (not route and request.route != "telemetry")
        return answer if here and (when is None or when(peer)) else carry_out()

    peer.meddle = meddle
    found = run(peer, kind, *BRIEF[kind])
    assert found.code == 2
    assert found.err.startswith("cookbook: the Tinker service: ")
    assert found.err.count("\n") == 1
    assert re.search(line, found.err), found.err
    assert (f"`cookbook resume {found.name}` goes on after step 0" in found.err) == (when is trained)


def test_a_sample_of_a_server_that_names_no_sequences_is_one_line(run, peer):
    """As servers of older versions of the API answer."""

    def meddle(request, carry_out):
        answer = carry_out()
        if request.route == "asample":
            del answer.body["sample_sequence_ids"]
        return answer

    peer.meddle = meddle
    found = run(peer, "rl", *BRIEF["rl"])
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "sample_sequence_ids" in found.err


# Servers that do otherwise


@pytest.mark.parametrize("kind", ["rl", "sl"])
def test_a_server_that_tells_no_loss_trains_all_the_same(run, peer, kind):
    def meddle(request, carry_out):
        answer = carry_out()
        if request.route != "retrieve_future" or not isinstance(answer.body, bytes) or not trained(peer):
            return answer
        message = pb.ForwardBackwardOutput.FromString(answer.body)
        message.metrics.clear()
        return Answer(200, message.SerializeToString())

    peer.meddle = meddle
    found = run(peer, kind, *BRIEF[kind])
    assert (found.code, found.err) == (0, "")
    assert "no step had a gradient" not in found.out


def test_a_path_of_two_parts_is_no_reason_to_end_a_run(run, peer):
    """The SDK deletes none such; what can't be deleted stays."""

    def meddle(request, carry_out):
        if request.route == "create_sampling_session" and "model_path" in request.body:
            run_id, name = request.body["model_path"].rsplit("/", 1)
            request.body["model_path"] = f"{run_id}/sampler_weights/{name}"
        answer = carry_out()
        if isinstance(answer.body, dict) and "path" in answer.body:
            answer.body["path"] = answer.body["path"].replace("/sampler_weights", "")
        return answer

    peer.meddle = meddle
    found = run(peer, "rl", "steps=2", "eval_every=0", "save_every=1")
    assert (found.code, found.err) == (0, "")
    assert [request.route.split("/")[3] for request in peer.of(method="delete")] == ["weights"]


# The end of a session


@pytest.mark.parametrize("answer", [refused(410, "it has finished"), refused(409, "not now"), None])
def test_a_run_that_is_done_is_done_whatever_the_server_says_to_its_end(run, peer, monkeypatch, answer):
    """409 is tried again for minutes; None never comes."""
    monkeypatch.setattr(service, "GOODBYE_S", 0.3)

    def meddle(request, carry_out):
        if not request.route.endswith("/finish"):
            return carry_out()
        return answer or wait_for_ever(peer)

    peer.meddle = meddle
    found = run(peer, "sl", *BRIEF["sl"])
    assert (found.code, found.err) == (0, "")
    assert "run " in found.out


def test_an_error_of_the_run_is_told_and_not_that_of_its_end(run, peer):
    def meddle(request, carry_out):
        if request.route == "optim_step":
            return refused(422, "no such optimizer")
        return refused(410, "it has finished") if request.route.endswith("/finish") else carry_out()

    peer.meddle = meddle
    found = run(peer, "sl", *BRIEF["sl"])
    assert found.code == 2
    assert "no such optimizer" in found.err and "finished" not in found.err
    (finish,) = peer.of("sessions/session-1/finish")
    assert finish.body["reason"] == {"type": "errored"}


# Waiting


def wait_for_ever(peer):
    peer.closing.wait(30)
    return DROPPED


class Stderr(io.StringIO):
    """Sets an event when the first Ctrl-C has been answered."""

    def __init__(self):
        super().__init__()
        self.answered = threading.Event()

    def write(self, text):
        if "once more" in text:
            self.answered.set()
        return super().write(text)


@pytest.fixture
def pressed(run, peer, monkeypatch):
    """`pressed(route, times)`: the lines of a run at which Ctrl-C is pressed when that route is first asked
    for something, and which is never answered then; the route "" is any."""
    monkeypatch.setattr(service, "GOODBYE_S", 0.3)
    stderr, first = Stderr(), threading.Lock()

    def pressed(route, times):
        monkeypatch.setattr(sys, "stderr", stderr)

        def meddle(request, carry_out):
            if route not in ("", request.route):
                return carry_out()
            if first.acquire(blocking=False):
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
                    stderr.answered.wait(10)
            return wait_for_ever(peer)

        peer.meddle = meddle
        assert run(peer, "rl", *BRIEF["rl"]).code == 130
        return stderr.getvalue().splitlines()

    return pressed


ASKED = "cookbook: saving, then stopping; once more to wait for nothing"
ENDED = r"cookbook: interrupted; `cookbook resume rl-\d+` goes on after step 0"


def test_one_interrupt_ends_a_run_that_waits_for_samples(pressed):
    first, last = pressed("asample", 1)
    assert first == ASKED
    assert re.fullmatch(ENDED, last)


@pytest.mark.parametrize("route", ["forward_backward", "optim_step", "save_weights"])
def test_two_interrupts_end_a_run_that_waits_for_a_step(pressed, route):
    first, last = pressed(route, 2)
    assert first == ASKED
    assert re.fullmatch(ENDED, last)


def test_two_interrupts_end_a_run_whose_server_never_speaks(pressed):
    assert pressed("", 2) == ["cookbook: stopping; once more to wait for nothing", "cookbook: interrupted"]


def test_what_is_waited_for_long_is_told_again_and_again(caplog):
    def lines():
        return [record.getMessage() for record in caplog.records]

    with told("a model", every_s=0.01):
        while len(lines()) < 2:
            pass
    assert lines()[:2] == ["a model: waited 0 s so far"] * 2
