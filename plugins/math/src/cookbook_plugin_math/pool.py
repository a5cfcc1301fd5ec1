"""A function that may take for ever or all memory, run in processes that can be killed.

For what has no limits of its own, such as computer algebra on text that a model wrote. What the two sides say
to each other is in `worker.py`, which also limits itself: the kernel ends a job that is over time even when
this process is gone.

One thread a worker starts it, gives it jobs and replaces it. Whoever submits only puts a job into a queue.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from cookbook_plugin_math.errors import Undecided
from cookbook_plugin_math.worker import MEMORY, START_S

_BATCH = 64  # jobs at most
_BATCH_BYTES = 8 * 2**20  # of a batch of more jobs than one; a worker holds all of it
_GRACE_S = 0.1  # for the worker to end by itself when its time is over
_TRIES = 3  # failed starts in a row, none of the workers alive, after which a pool gives up
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0  # after a failed start; twice as long each time
_JOIN_S = 5.0  # for the threads to end, which takes milliseconds

# Held while a process is started, so that a fork at that moment inherits no socket that nobody knows of.
_STARTING = threading.RLock()
_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Runs one function, `target` ("package.module:function"), in worker processes that can be killed.

    A job has `timeout_s` seconds of wall time from when a worker begins it, and `memory_mb` MiB (of address
    space, on Linux only) beyond what the worker has after the import of the target. What the function prints
    is lost. Workers start with the first job, find modules where this process does, stay for later jobs, are
    replaced when they die, and end with this process however it ends. A fork of this process has the pool
    without its workers and jobs.
    """

    def __init__(
        self, target: str, *, workers: int = 2, timeout_s: float = 0.8, memory_mb: int = 512
    ) -> None:
        self._target, self._n, self._timeout_s, self._memory_mb = target, workers, timeout_s, memory_mb
        self._ended: str | None = None  # why there are no more results
        self._reset()
        _mind_process()
        with _STARTING:
            _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._queued = threading.Condition(self._lock)  # a job; waited for by the threads only
        self._changed = threading.Condition(self._lock)  # the workers, or `_ended`
        self._jobs: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._workers: set[_Worker] = set()
        self._ready = 0  # workers that have imported the target
        self._failed = 0  # starts in a row

    def submit(self, *arguments: Any) -> Future[Any]:
        """The result to be of a call, as JSON gives it back; or `Undecided`, as the future's exception.

        Never waits for a process; any thread may call it, an event loop's too. A job that is cancelled before
        it began is never run. Raises what `json.dumps` raises where the arguments have no JSON.
        """
        job = _Job(json.dumps(arguments).encode() + b"\n")
        with self._lock:
            if self._ended is None:
                self._start_threads()
                self._jobs.append(job)
                self._queued.notify()
                return job.future
        job.settle(self._ended)
        return job.future

    def warm(self) -> None:
        """Waits until the workers have imported the target. Raises `Undecided` if none can, or if closed."""
        with self._lock:
            if self._ended is None:
                self._start_threads()
            self._changed.wait_for(lambda: self._ended is not None or self._ready == self._n)
            if self._ended is not None:
                raise Undecided(self._ended)

    def close(self) -> None:
        """Kills the workers; jobs without a result are undecided, later ones too. Once more does nothing."""
        self._end("the pool is closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def _start_threads(self) -> None:
        while len(self._threads) < self._n:
            thread = threading.Thread(target=self._work, name=f"pool {self._target}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._ended = self._ended or reason
            jobs, workers = list(self._jobs), list(self._workers)
            self._jobs.clear()
            self._queued.notify_all()
            self._changed.notify_all()
        for worker in workers:
            worker.process.kill()
        for job in jobs:
            job.settle(self._ended)

    def _work(self) -> None:
        """What a thread does: has a worker, and when that has died another, until the pool ends."""
        # For the main thread; and the process, which inherits it, isn't interrupted before it can ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        while self._ended is None:
            try:
                worker = self._start()
                self._await_import(worker)
            except Exception as error:  # whatever it is, those who wait must hear of it
                self._fail(str(error))
                continue
            try:
                while (jobs := self._take()) and self._answer(worker, jobs):
                    pass
            finally:
                with self._lock:
                    self._ready -= 1
                self._stop(worker)

    def _start(self) -> _Worker:
        with _STARTING:
            worker = _Worker([self._target, str(self._timeout_s), str(self._memory_mb)])
            with self._lock:
                self._workers.add(worker)
                if self._ended is not None:
                    worker.process.kill()
        return worker

    def _await_import(self, worker: _Worker) -> None:
        """Raises `Undecided` when the target can't be imported."""
        try:
            answer = _read(worker.line())
        except OSError as error:
            answer = self._stop(worker, error)
        if isinstance(answer, str):
            self._stop(worker)
            raise Undecided(answer)
        with self._lock:
            self._ready += 1
            self._failed = 0
            self._changed.notify_all()

    def _stop(self, worker: _Worker, error: OSError | None = None) -> str:
        """Ends a worker. Returns why the job that it was at, if any, has no result, after this error."""
        status = worker.stop()
        with self._lock:
            self._workers.discard(worker)
        if self._ended is not None:
            return self._ended
        if isinstance(error, TimeoutError) or status == -signal.SIGALRM:
            return "time"
        return f"died (signal {-status})" if status < 0 else f"died (status {status})"

    def _fail(self, reason: str) -> None:
        """Notes a failed start, and waits a little or gives up."""
        with self._lock:
            self._failed += 1
            if self._failed < _TRIES or self._ready:
                pause_s = min(_PAUSE_S * 2**self._failed, _LONGEST_PAUSE_S)
                self._changed.wait_for(lambda: self._ended is not None, pause_s)
                return
        self._end(f"no worker starts: {reason}")

    def _take(self) -> list[_Job]:
        """A worker's share of the jobs that wait, once there are some. Empty when the pool ends."""
        jobs: list[_Job] = []
        with self._lock:
            while not jobs:
                self._queued.wait_for(lambda: self._jobs or self._ended is not None)
                if self._ended is not None:
                    break
                most, size = min(_BATCH, math.ceil(len(self._jobs) / self._n)), 0
                while self._jobs and len(jobs) < most and size < _BATCH_BYTES:
                    job = self._jobs.popleft()
                    if not job.cancelled():
                        jobs.append(job)
                        size += len(job.line)
        return jobs

    def _put_back(self, jobs: Sequence[_Job]) -> None:
        """To the front of the queue, for whichever worker is next."""
        with self._lock:
            if self._ended is None:
                self._jobs.extendleft(reversed(jobs))
                self._queued.notify_all()
                return
        for job in jobs:
            job.settle(self._ended)

    def _answer(self, worker: _Worker, jobs: Iterable[_Job]) -> bool:
        """Has a worker do jobs. False when it is of no more use: the job under way then is undecided, and
        those after it wait again."""
        left = deque(jobs)
        if worker.process.poll() is not None:  # since its last job
            self._put_back(left)
            return False
        try:
            worker.send([job.line for job in left])
            worker.allow(self._timeout_s + _GRACE_S)
            while left:
                answer = _read(worker.line())
                left.popleft().settle(answer)
                if answer == MEMORY:
                    break
            else:
                return True
        except OSError as error:
            left.popleft().settle(self._stop(worker, error))
        self._put_back(left)
        return False


class _Job:
    """The arguments of a call, as a line of JSON, and its result to be."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.future: Future[Any] = Future()

    def cancelled(self) -> bool:
        """Whether nobody wants it any more; tells those who wait so."""
        return self.future.cancelled() and not self.future.set_running_or_notify_cancel()

    def settle(self, answer: Any) -> None:
        """With a list that holds the result, or a string that says why there is none."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(answer, list):
            self.future.set_result(answer[0])
        else:
            self.future.set_exception(Undecided(answer))


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"[:200]


class _Worker:
    """A process, and the socket to it."""

    def __init__(self, arguments: list[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "cookbook_plugin_math.worker", *arguments],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                )
            except BaseException:
                self._socket.close()
                raise
        self._lines: deque[bytes] = deque()
        self._line: list[bytes] = []  # parts of one that has no end yet
        self.allow(START_S + _GRACE_S)

    def allow(self, limit_s: float) -> None:
        """How long to wait for a reply from now on."""
        self._socket.settimeout(limit_s)

    def send(self, lines: list[bytes]) -> None:
        """A batch of jobs. Raises TimeoutError when the worker doesn't read it. That it has died shows at the
        next `line`, which may be its last words."""
        self.allow(START_S)
        try:
            self._socket.sendall(b"%d\n%b" % (len(lines), b"".join(lines)))
        except ConnectionError:
            pass

    def line(self) -> bytes:
        """The next reply. Raises OSError when the worker has died, TimeoutError when its time is over."""
        while not self._lines:
            part = self._socket.recv(2**16)
            if not part:
                raise ConnectionError
            first, *rest = part.split(b"\n")
            self._line.append(first)
            if rest:
                self._lines += [b"".join(self._line), *rest[:-1]]
                self._line = [rest[-1]]
        return self._lines.popleft()

    def stop(self) -> int:
        """Ends the process if it hasn't ended, and returns its status, as `Popen` has it. Never raises."""
        self._socket.close()
        self.process.kill()
        return self.process.wait()

    def forget(self) -> None:
        """Leaves it to the process that this one is a fork of."""
        self._socket.close()
        self.process.returncode = 0  # so that nothing waits for it, or warns that nobody did


def _environment() -> dict[str, str]:
    """This process's, in which a new interpreter finds the same modules."""
    folders = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 ("" is where we are)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    environment.pop("PYTHONFAULTHANDLER", None)
    return environment


@functools.cache
def _mind_process() -> None:
    """Once, when there is a pool: what happens to the pools of a process that forks or ends."""
    os.register_at_fork(
        before=_STARTING.acquire, after_in_parent=_STARTING.release, after_in_child=_forget_workers
    )
    atexit.register(_close_all)


def _forget_workers() -> None:
    for pool in list(_POOLS):
        for worker in list(pool._workers):
            worker.forget()
        pool._reset()
    _STARTING.release()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()
