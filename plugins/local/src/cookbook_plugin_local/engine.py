"""The thread that torch works in, behind an ordered queue; the event loop never waits on torch."""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cookbook.errors import BackendError

T = TypeVar("T")


class Worker(Protocol):
    """Serves requests on one snapshot of the weights, a step at a time. A request has a `future`."""

    @property
    def place(self) -> int:
        """As `Engine.place` gave it."""
        ...

    @property
    def busy(self) -> bool: ...

    def add(self, request: Any) -> None: ...

    def step(self) -> None: ...

    def abandon(self, error: BaseException) -> None:
        """Fails every request that isn't answered yet."""


@dataclass(frozen=True)
class _Job:
    run: Callable[[], Any]
    future: Future[Any]


@dataclass(frozen=True)
class _Asked:
    worker: Worker
    request: Any

    @property
    def future(self) -> Future[Any]:
        return self.request.future


class Engine:
    """Carries out jobs in the order of their submission; between jobs, a step of the workers.

    Of the workers that are busy, those in the lowest place take the step: the oldest weights are the
    ones that a training loop waits for.
    """

    def __init__(self) -> None:
        self._places = itertools.count()
        self._queue: queue.SimpleQueue[_Job | _Asked | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # nothing is queued behind the end
        self._thread = threading.Thread(target=self._work, name="cookbook-torch", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that the interpreter cuts off inside torch aborts the process

    def place(self) -> int:
        """The next place in the order of workers; what serves the same weights shares one."""
        return next(self._places)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queues a job. Its future carries what it returns or raises."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # what was submitted is done, whoever stops waiting for it
        self._put(_Job(job, future))
        return future

    def serve(self, worker: Worker, request: Any) -> Future[Any]:
        """Queues a request. Cancelling its future takes it out of its batch at the next step."""
        self._put(_Asked(worker, request))
        return request.future

    def close(self) -> None:
        """Ends the thread after the job that it is at; what is still queued fails. Done at the process's end
        where nobody did."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        atexit.unregister(self.close)

    def _put(self, item: _Job | _Asked) -> None:
        with self._closing:
            if self._closed:
                raise BackendError("local/torch: this client is closed; connect anew")
            self._queue.put(item)

    def _work(self) -> None:
        busy: list[Worker] = []
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
                    item.worker.add(item.request)
                    if item.worker not in busy:
                        busy.append(item.worker)
            _step(busy)
            busy = [worker for worker in busy if worker.busy]


def _step(busy: list[Worker]) -> None:
    first = min((worker.place for worker in busy), default=0)
    for worker in busy:
        if worker.place == first:
            try:
                worker.step()
            except Exception as e:  # whatever it is, it belongs to those who wait for these results
                worker.abandon(e)


def _carry_out(job: _Job) -> None:
    try:
        job.future.set_result(job.run())
    except Exception as e:  # likewise: it is raised where the future is awaited
        job.future.set_exception(e)


def _abandon(busy: list[Worker], items: list[_Job | _Asked | None]) -> None:
    error = BackendError("local/torch was closed before this was done")
    for worker in busy:
        worker.abandon(error)
    for item in items:
        if item is not None and (item.future.running() or item.future.set_running_or_notify_cancel()):
            item.future.set_exception(error)
