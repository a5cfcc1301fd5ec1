"""What the tests of the pool run in worker processes."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path


def act(what, *rest):
    """Does one of the things below, so that one pool can have well and ill behaved jobs."""
    return globals()[what](*rest)


def same(value):
    return value


def pid():
    return os.getpid()


def note(path, text):
    """Appends to a file, so that a test sees what ran."""
    with Path(path).open("a") as file:
        file.write(text + "\n")


def note_and_spin(path, text):
    note(path, text)
    spin()


def wait_for(path):
    """The process's id, once there is a file."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return os.getpid()


def spin():
    while True:
        pass


def compute():
    """For ever, and never back in Python's own loop, where a signal's handler would run."""
    return 3**10**9


def bomb():
    return len([bytes(2**20) for _ in range(10**6)])


def large(n):
    return "x" * n


def leave(status):
    os._exit(status)


def crash():
    os.kill(os.getpid(), 11)


def hang_up():
    """Closes the socket and lives on."""
    os.closerange(3, 100)
    spin()


def speak(text):
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    os.write(1, text.encode())
    os.write(2, text.encode())
    sys.__stdout__.write(text)
    warnings.warn(text, stacklevel=1)
    return "spoke"


def listen():
    return [sys.stdin.read(), os.read(0, 100).decode()]


def recurse(n=0):
    return recurse(n + 1) + 1


def fail(message):
    raise ValueError(message)


def stop(message):
    raise SystemExit(message)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def fail_mute():
    raise Mute


def nothing_of_json():
    return object()


def digits():
    return 10**100_000


def found():
    """What the worker was started with."""
    import resource
    import signal

    return {
        "path": sys.path,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "modules": sorted(sys.modules),
    }


def open_files():
    """Descriptors of sockets and pipes that this process has."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the listing's own
            pass
    return [link for link in links if link.startswith(("socket:", "pipe:"))]


def deaf():
    """Spins, and the kernel's own limit doesn't reach it."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    spin()
