"""A server of Tinker's API on loopback, and behind it the engine of `local/torch`: what the SDK that is
installed says to a service, without the service.

It is strict where a service may be lenient: a body that isn't of the SDK's own request type is refused, and
so is a sequence number that comes again with other contents; one that is left out holds up all that follow.
A request that comes again as it was is carried out once.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tinker import types
from wire_codec import Writer, read_data, write_output, write_sample
from wire_http import PROTOBUF, Answer, Request, Server

from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.client import ServiceClient

KEY = "tml-a-key-of-the-tests"
PATIENCE_S = 2.0  # for which a request for a result is held before its answer is "try again"
INLINE = 64  # bytes of a result that is sent before its size was told

Begun = tuple[str, Callable[[], None]]
"""The id of a request, and what begins its work."""


class Refused(Exception):
    """Carries an answer out of a route."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = Answer(status, {"detail": detail})


class Model:
    """The requests of one training client, each carried out once, in the order of their numbers."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._ids: dict[int, tuple[bytes, str]] = {}
        self._waiting: dict[int, Callable[[], None]] = {}
        self._next = 1

    def submit(self, seq_id: int, contents: bytes, promise: Callable[[], Begun]) -> str:
        if seq_id in self._ids:
            known, request_id = self._ids[seq_id]
            if known != contents:
                raise Refused(409, f"request {seq_id} came before with other contents")
            return request_id
        request_id, self._waiting[seq_id] = promise()
        self._ids[seq_id] = contents, request_id
        while self._next in self._waiting:
            self._waiting.pop(self._next)()
            self._next += 1
        return request_id


class Peer:
    """`with Peer() as peer:` serves at `peer.url`; weights are saved in the folder of runs.

    seen: all requests but those about the session itself, in the order of their arrival. config: the flags
    that the SDK asks for.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.seen: list[Request] = []
        self.config = config or {}
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._service = ServiceClient(options=TorchBackend(dtype="float32").options())
        self._models: dict[str, Future[Model]] = {}
        self._samplers: dict[str, Any] = {}
        self._promises: dict[str, Future[bytes | dict[str, Any]]] = {}
        self._known: dict[str, str] = {}
        self._finished: dict[str, list[str]] = {}
        self._some_finished = threading.Condition(self._lock)
        self._server = Server(self.answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._service.close("success").result()
        for promise in self._promises.values():  # of requests that wait for one that never came
            if not promise.done():
                promise.set_exception(ConnectionError("the server ends"))
        self._server.stop()
        self._thread.join()

    def of(self, *routes: str, method: str = "post") -> list[Request]:
        """The requests of these routes, or all of a method, in the order of their arrival."""
        seen = [request for request in list(self.seen) if request.method == method]
        return [request for request in seen if not routes or request.route in routes]

    # A request

    def meddle(self, request: Request, carry_out: Callable[[], Answer]) -> Answer:
        """What a test puts in this place may answer otherwise, before or after the work, or instead of it."""
        return carry_out()

    def answer(self, request: Request) -> Answer:
        if request.route not in ("client/config", "client/dynamic_config", "session_heartbeat", "telemetry"):
            self.seen.append(request)

        def carry_out() -> Answer:
            try:
                self._check_key(request)
                return self._route(request)
            except Refused as refused:
                return refused.answer
            except Exception as e:  # what the SDK doesn't send again
                return Answer(422, {"detail": f"{type(e).__name__}: {e}"})

        return self.meddle(request, carry_out)

    def _check_key(self, request: Request) -> None:
        exchanged = self.config.get("pjwt_auth_enabled")
        first = request.route in ("client/config", "auth/token")
        if request.headers.get("x-api-key") != (_token() if exchanged and not first else KEY):
            raise Refused(401, "Invalid API key")

    def _route(self, request: Request) -> Answer:
        name, *rest = request.route.split("/")
        method = getattr(self, f"_{request.method}_{name}_{len(rest)}", None)
        if method is None:
            raise Refused(404, f"no route {request.method} {request.route}")
        found = method(request, *rest)
        return found if isinstance(found, Answer) else Answer(200, found)

    # The session

    def _post_client_1(self, request: Request, kind: str) -> dict[str, Any]:
        return self.config if kind == "config" else {}

    def _post_auth_1(self, request: Request, kind: str) -> dict[str, Any]:
        return {"jwt": _token()}

    def _post_create_session_0(self, request: Request) -> dict[str, Any]:
        types.CreateSessionRequest.model_validate(request.body)
        return {"session_id": f"session-{len(self.of('create_session'))}"}

    def _post_session_heartbeat_0(self, request: Request) -> dict[str, Any]:
        return {}

    def _post_telemetry_0(self, request: Request) -> dict[str, Any]:
        return {"status": "accepted"}

    def _post_sessions_2(self, request: Request, session: str, what: str) -> dict[str, Any]:
        return {}

    # Training

    def _post_create_model_0(self, request: Request) -> dict[str, Any]:
        asked = types.CreateModelRequest.model_validate(request.body)
        lora = asked.lora_config
        assert lora is not None
        return self._new_model(
            f"{asked.session_id}:train:{asked.model_seq_id}",
            lambda: self._service.create_lora_training_client(asked.base_model, lora.rank, lora.seed),
            "create_model",
        )

    def _post_load_weights_0(self, request: Request) -> dict[str, Any]:
        asked = types.LoadWeightsRequest.model_validate(request.body)
        service = self._service
        load = (
            service.create_training_client_from_state_with_optimizer
            if asked.optimizer
            else service.create_training_client_from_state
        )
        model_id = f"{asked.session_id}:train:{asked.model_seq_id}"
        return self._new_model(model_id, lambda: load(asked.path), "load_weights")

    def _new_model(self, model_id: str, create: Callable[[], Any], kind: str) -> dict[str, Any]:
        with self._lock:
            if model_id in self._known:
                return {"request_id": self._known[model_id]}
            future = self._models[model_id] = Future()

            def keep(client: Any) -> dict[str, Any]:
                future.set_result(Model(client))
                return {"type": kind, "model_id": model_id}

            request_id, begin = self._promise(create, keep)
            self._known[model_id] = request_id
            begin()
            return {"request_id": request_id}

    def _post_get_info_0(self, request: Request) -> dict[str, Any]:
        asked = types.GetInfoRequest.model_validate(request.body)
        info = self._models[asked.model_id].result(PATIENCE_S).client.get_info()
        return info.model_dump(mode="json") | {"model_id": asked.model_id}

    def _post_forward_backward_0(self, request: Request) -> dict[str, Any]:
        asked = request.body
        config = dict(asked.loss_fn_config) or None
        assert config == ({k: v.number for k, v in asked.loss_fn_config_v2.items()} or None)
        data = read_data(asked)

        def work(client: Any) -> Any:
            call = client.forward if asked.forward_only else client.forward_backward
            return call(data, asked.loss_fn, config)

        return self._submit(request, asked, work, write_output)

    def _post_optim_step_0(self, request: Request) -> dict[str, Any]:
        asked = types.OptimStepRequest.model_validate(request.body)
        return self._submit(request, asked, lambda client: client.optim_step(asked.optim_params), _json)

    def _post_save_weights_0(self, request: Request) -> dict[str, Any]:
        asked = types.SaveWeightsRequest.model_validate(request.body)
        return self._submit(
            request, asked, lambda client: client.save_state(asked.path, overwrite=asked.overwrite), _json
        )

    def _post_save_weights_for_sampler_0(self, request: Request) -> dict[str, Any]:
        asked = types.SaveWeightsForSamplerRequest.model_validate(request.body)
        if asked.path is not None:
            name = asked.path
            return self._submit(request, asked, lambda client: client.save_weights_for_sampler(name), _json)

        def keep(sampler: Any) -> dict[str, Any]:
            session = asked.model_id.split(":")[0]
            return {"sampling_session_id": self._new_sampler(session, asked, sampler)}

        return self._submit(
            request, asked, lambda client: client.save_weights_and_get_sampling_client(), keep
        )

    def _submit(
        self, request: Request, asked: Any, work: Callable[[Any], Any], write: Writer
    ) -> dict[str, Any]:
        if asked.model_id not in self._models:
            raise Refused(404, f"no model {asked.model_id}")
        model = self._models[asked.model_id].result(PATIENCE_S)
        with self._lock:
            request_id = model.submit(
                asked.seq_id, request.contents, lambda: self._promise(lambda: work(model.client), write)
            )
        return {"request_id": request_id, "model_id": asked.model_id}

    def _delete_training_runs_4(self, request: Request, run: str, what: str, kind: str, name: str) -> Any:
        assert what == "checkpoints"
        try:
            rest = self._service.create_rest_client()
            rest.delete_checkpoint_from_tinker_path(f"tinker://{run}/{kind}/{name}").result()
        except Exception as e:
            raise Refused(404, str(e)) from e
        return Answer(204, None)

    # Sampling

    def _post_create_sampling_session_0(self, request: Request) -> dict[str, Any]:
        asked = types.CreateSamplingSessionRequest.model_validate(request.body)
        try:
            sampler = self._service.create_sampling_client(asked.model_path, asked.base_model).result()
        except Exception as e:
            raise Refused(404, str(e)) from e
        return {"sampling_session_id": self._new_sampler(asked.session_id, asked, sampler)}

    def _new_sampler(self, session: str, asked: Any, sampler: Any) -> str:
        name = f"{session}:sample:{asked.sampling_session_seq_id}"
        self._samplers.setdefault(name, sampler)
        return name

    def _get_samplers_1(self, request: Request, name: str) -> dict[str, Any]:
        return {"sampler_id": name, "base_model": self._samplers[name].get_base_model()}

    def _post_asample_0(self, request: Request) -> dict[str, Any]:
        asked = types.SampleRequest.model_validate(request.body)
        name = asked.sampling_session_id or ""
        key = f"{name}:{asked.seq_id}"
        sampler = self._samplers[name]

        def work() -> Any:
            return sampler.sample(
                asked.prompt,
                asked.num_samples,
                asked.sampling_params,
                include_prompt_logprobs=bool(asked.prompt_logprobs),
            )

        with self._lock:
            if key not in self._known:
                self._known[key], begin = self._promise(work, write_sample, name)
                begin()
            sequences = [f"{key}:{i}" for i in range(asked.num_samples)]
            return {"request_id": self._known[key], "sample_sequence_ids": sequences}

    # Results

    def _promise(self, work: Callable[[], Any], write: Writer, sampler: str = "") -> Begun:
        """work: gives one of the engine's futures. sampler: the session that a sample is of."""
        promise: Future[bytes | dict[str, Any]] = Future()
        request_id = f"request-{len(self._promises)}"
        self._promises[request_id] = promise

        def done(future: Future[Any]) -> None:
            try:
                promise.set_result(write(future.result()))
            except Exception as e:
                promise.set_exception(e)
            if sampler:
                with self._some_finished:
                    self._finished.setdefault(sampler, []).append(request_id)
                    self._some_finished.notify_all()

        def begin() -> None:
            try:
                # The engine's thread calls back; it must not wait for a lock that is held for it.
                work().future().add_done_callback(done)
            except Exception as e:
                promise.set_exception(e)

        return request_id, begin

    def _post_retrieve_future_0(self, request: Request) -> Any:
        request_id = request.body["request_id"]
        if request_id not in self._promises:
            raise Refused(410, f"no request {request_id}")
        try:
            result = self._promises[request_id].result(PATIENCE_S)
        except TimeoutError:
            return Answer(408, {"type": "try_again", "request_id": request_id, "queue_state": "active"})
        except Exception as e:
            return {"error": str(e), "category": "user"}
        if isinstance(result, dict):
            return result
        if request.headers.get("accept") != PROTOBUF:
            raise Refused(406, "this result is protobuf")
        if request.body.get("allow_metadata_only") and len(result) > INLINE:
            return {"status": "complete_metadata", "response_payload_size": len(result)}
        return Answer(200, result)

    def _post_retrieve_futures_0(self, request: Request) -> dict[str, Any]:
        target, cursor = request.body["target"]["sampling_session_id"], request.body["prev_cursor"]
        deadline = time.monotonic() + (PATIENCE_S if request.body.get("timeout") is None else 0)
        with self._some_finished:
            while len(self._finished.get(target, ())) <= cursor and time.monotonic() < deadline:
                self._some_finished.wait(0.1)
            found = self._finished.get(target, [])[cursor:]
        sizes = [(name, len(self._promises[name].result())) for name in found]
        completions = [
            {"state": "finished", "request_id": name, "response_payload_uncompressed_size": size}
            for name, size in sizes
        ]
        return {"completions": completions, "cursor": cursor + len(found)}


def _json(response: Any) -> dict[str, Any]:
    return response.model_dump(mode="json", exclude_none=True)


def _token() -> str:
    """A JWT that is good for an hour of the tests."""
    claims = json.dumps({"iat": 0, "exp": 2**40}).encode()
    return "eyJ." + base64.urlsafe_b64encode(claims).decode().rstrip("=") + ".x"
