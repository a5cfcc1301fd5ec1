"""The worker process of a pool: `python -m cookbook_plugin_math.worker MODULE:FUNCTION TIMEOUT_S MEMORY_MB`.

Standard input is the socket to the pool. A batch is a line with the number of its jobs, then a line for
each: a JSON list of arguments. All of it is read before the first job begins, so the pool can write it
in one go. A reply is a line too: a JSON list that holds the result, or a JSON string that says why there
is none. The first reply comes before any job: the target is imported, or why it can't be.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

START_S = 30.0  # for the import of the target
MEMORY = "memory"  # the reply of a worker that ran out of memory, its last one

_REASON = 200  # characters at most
_NO_MEMORY = json.dumps(MEMORY).encode() + b"\n"


def main() -> None:
    """Answers jobs until the pool hangs up, then ends the process, whatever the target has set up."""
    target, timeout_s, memory_mb = sys.argv[1:]
    channel = _channel()
    _mind_signals()
    last = b""
    try:
        _serve(channel, target, float(timeout_s), int(memory_mb))
    except MemoryError:
        last = _NO_MEMORY  # said below, when what the job held is free
    except OSError:  # the pool is gone
        pass
    if last:
        os.write(channel, last)
    os._exit(0)


def _channel() -> int:
    """The socket's new descriptor; the function's standard input is empty, its output goes nowhere."""
    channel = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nowhere, fd)
    return channel


def _mind_signals() -> None:
    """Ctrl-C is for the parent, and the kernel ends this process when its time is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _serve(channel: int, target: str, timeout_s: float, memory_mb: int) -> None:
    """Raises MemoryError when a job or its arguments need too much, OSError when the pool is gone."""
    requests, replies = os.fdopen(channel, "rb", closefd=False), os.fdopen(channel, "wb", closefd=False)

    def reply(text: str) -> None:
        replies.write(text.encode() + b"\n")
        replies.flush()

    signal.setitimer(signal.ITIMER_REAL, START_S)
    try:
        function = _imported(target)
    except BaseException as error:
        return reply(json.dumps(_told(error)))
    signal.setitimer(signal.ITIMER_REAL, 0)
    _mind_signals()  # the import may have changed them
    _limit(memory_mb)
    os.dup2(1, 2)
    reply("[null]")
    while header := requests.readline():
        for line in [requests.readline() for _ in range(int(header))]:
            if line:  # else the pool hung up
                reply(_answer(function, line, timeout_s))
    return None


def _imported(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _limit(memory_mb: int) -> None:
    """No core dumps, and `memory_mb` of address space beyond what there is; Linux only, that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 (one import less)
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + memory_mb * 2**20
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _answer(function: Callable[..., Any], line: bytes, timeout_s: float) -> str:
    """The reply to one job. Reading it, running it and writing down what it gave all count as its time."""
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return json.dumps([function(*json.loads(line))])
    except MemoryError:
        raise
    except BaseException as error:
        return json.dumps(_told(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _told(error: BaseException) -> str:
    """An exception in one short line."""
    try:
        words = " ".join(str(error)[: 2 * _REASON].split())
    except Exception:
        words = ""
    return f"{type(error).__name__}: {words}"[:_REASON]


if __name__ == "__main__":
    main()
