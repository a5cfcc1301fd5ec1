"""The thread that torch works in, behind an ordered queue; the event loop never waits on torch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from cookbook.errors import BackendError

from .decoding import Decoder, Request

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    run: Callable[[], Any]
    future: Future[Any]


@dataclass(frozen=True)
class _Sampling:
    decoder: Decoder
    request: Request

    @property
    def future(self) -> Future[Any]:
        return self.request.future


class Engine:
    """Carries out jobs in the order of their submission; between jobs, decodes a token at a time."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Job | _Sampling | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # nothing is queued behind the end
        self._thread = threading.Thread(target=self._work, name="cookbook-torch", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queues a job. Its future carries what it returns or raises."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # what was submitted is done, whoever stops waiting for it
        self._put(_Job(job, future))
        return future

    def sample(self, decoder: Decoder, request: Request) -> Future[Any]:
        """Queues a request. Cancelling the future takes it out of its batch at the next step."""
        self._put(_Sampling(decoder, request))
        return request.future

    def close(self) -> None:
        """Ends the thread after the job that it is at; what is still queued fails."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, item: _Job | _Sampling) -> None:
        with self._closing:
            if self._closed:
                raise BackendError("local/torch: this client is closed; connect anew")
            self._queue.put(item)

    def _work(self) -> None:
        busy: list[Decoder] = []
        while True:
            items = [] if busy else [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            for i, item in enumerate(items):
                if item is None or self._closed:
                    rest = items[i:]
                    while rest[-1] is not None:
                        rest.append(self._queue.get())
                    _abandon(busy, rest)
                    return
                if isinstance(item, _Job):
                    _carry_out(item)
                else:
                    item.decoder.add(item.request)
                    if item.decoder not in busy:
                        busy.append(item.decoder)
            for decoder in busy:
                try:
                    decoder.step()
                except Exception as e:  # whatever it is, it belongs to those who wait for these samples
                    decoder.abandon(e)
            busy = [decoder for decoder in busy if decoder.busy]


def _carry_out(job: _Job) -> None:
    try:
        job.future.set_result(job.run())
    except Exception as e:  # likewise: it is raised where the future is awaited
        job.future.set_exception(e)


def _abandon(busy: list[Decoder], items: list[_Job | _Sampling | None]) -> None:
    error = BackendError("local/torch was closed before this was done")
    for decoder in busy:
        decoder.abandon(error)
    for item in items:
        if item is not None and (item.future.running() or item.future.set_running_or_notify_cancel()):
            item.future.set_exception(error)
