"""Runs of the command line, each in a process of its own, to which something happens at a chosen operation on
files: it is killed, hears a signal, or finds the disk full.

Run as a program this is a server. It imports once what takes seconds, and forks a process for each request,
a line of JSON; the answers are exit codes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILES = ("metrics.jsonl", "evaluations.jsonl", "episodes.jsonl", "checkpoints.jsonl")
MODULE = '''
import chz
from cookbook import DatasetConfig, EnvConfig, Step

class Spelling:
    """The reward is made of the reply's letters: an untrained model gets all sorts of them."""
    def __init__(self, i): self.i = i
    def table(self): return [self]
    async def start(self): return [{"role": "user", "content": f"{self.i}?"}]
    async def step(self, reply): return Step(sum(ord(c) % 7 for c in reply["content"]) / 10, True)

@chz.chz
class Env(EnvConfig):
    def tasks(self, split): return [Spelling(i) for i in range(20)]

@chz.chz
class Data(DatasetConfig):
    def rows(self, split):
        said = {"train": "a", "test": "b"}[split]
        return [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": said * (i % 5 + 1)}]
                for i in range(20)]
'''
COMMON = ["backend=local/torch", "backend.dtype=float32", "renderer=core/chatml", "lora_rank=4", "lr=1e-2"]
RL = [
    "core/rl",
    "env=crashable:Env",
    "groups_per_step=2",
    "group_size=4",
    "max_tokens=4",
    "eval_tasks=3",
] + COMMON
SL = ["core/sl", "data=crashable:Data", "batch_size=4", "max_length=64", "eval_examples=6", *COMMON]


class Crashing:
    """Calls are `cookbook` with these words, in `folder`, which holds the module `crashable`."""

    def __init__(self, folder: Path) -> None:
        (folder / "crashable.py").write_text(MODULE)
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, runs: Path, *argv: str, **event: Any) -> SimpleNamespace:
        """code: negative for a signal. ops: all operations below `runs`, "write a/metrics.jsonl" for
        instance, of a process that ended by itself. event: as in `Event`."""
        notes = {name: str(self._folder / f"{name}.txt") for name in ("out", "err", "ops")}
        Path(notes["ops"]).write_text("[]")
        request = {"runs": str(runs), "argv": argv, "event": event, **notes}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err, ops = (Path(path).read_text() for path in notes.values())
        return SimpleNamespace(code=code, out=out, err=err, ops=json.loads(ops))

    def __enter__(self) -> Crashing:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


class Event:
    """What happens, at the nth operation (from 1) below `runs` whose name has `at`, a pattern.

    then: "SIGKILL" or another signal; "full": no more room from there on; "fails": no room this once; "":
    nothing. when: "before", "after", or "half", when half of the bytes are written.
    """

    def __init__(self, runs: str, at: str = "", nth: int = 0, then: str = "", when: str = "before") -> None:
        self._runs, self._at, self._nth, self._then, self._when = os.path.realpath(runs), at, nth, then, when
        self._lock, self._found, self._full = threading.Lock(), 0, False
        self.ops: list[str] = []

    def install(self) -> None:
        """Wraps those functions of `os` that files of a run go through."""
        write = os.write
        for op in ("mkdir", "unlink", "rmdir", "truncate", "fsync"):
            self._wrap(op, op, lambda at, *rest, **places: _where(at, places.get("dir_fd")))
        for op in ("rename", "replace"):
            self._wrap(op, "rename", lambda part, final, **places: _where(final, None))
        self._wrap(
            "write",
            "write",
            lambda fd, data: _where(fd, None),
            lambda fd, data: write(fd, data[: len(data) // 2]),
        )
        self._wrap("open", "create", _created)

    def _wrap(self, name: str, op: str, where: Any, half: Any = lambda *_, **__: None) -> None:
        real = getattr(os, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            path = where(*args, **kwargs)
            if path is None or not f"{path}/".startswith(self._runs + "/"):
                return real(*args, **kwargs)
            comes = self._comes(f"{op} {os.path.relpath(path, self._runs)}")
            if comes and self._when == "half":
                half(*args, **kwargs)
            if comes and self._when != "after":
                self._happen(args)
            if self._full and op in ("write", "create", "mkdir"):
                _no_room(args)
            found = real(*args, **kwargs)
            if comes and self._when == "after":
                self._happen(args)
            return found

        setattr(os, name, wrapped)

    def _comes(self, op: str) -> bool:
        with self._lock:
            self.ops.append(op)
            self._found += (matches := re.search(self._at, op) is not None)
            return matches and self._found == self._nth

    def _happen(self, args: tuple[Any, ...]) -> None:
        if self._then in ("full", "fails"):
            self._full = self._then == "full"
            _no_room(args)
        os.kill(os.getpid(), signal.Signals[self._then])


def _no_room(args: tuple[Any, ...]) -> None:
    """As the system raises it: of what it is given as a path it says the name."""
    names = [os.fspath(arg) for arg in args[:1] if not isinstance(arg, int)]
    raise OSError(errno.ENOSPC, "No space left on device", *names)


def _where(at: Any, dir_fd: int | None) -> str:
    """The path of what a function of `os` is given."""
    if isinstance(at, int):
        return os.readlink(f"/proc/self/fd/{at}")
    folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
    return os.path.realpath(os.path.join(folder, os.fspath(at)))


def _created(path: Any, flags: int, *mode: int, dir_fd: int | None = None) -> str | None:
    found = _where(path, dir_fd)
    return found if flags & os.O_CREAT and not os.path.exists(found) else None


def rows(runs: Path, name: str = "a") -> dict[str, list[dict[str, Any]]]:
    """What a run wrote, times apart: all that a resume must give again, bit for bit."""
    found = {}
    for file in FILES:
        lines = (runs / name / file).read_text().splitlines()
        found[file] = [
            {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
        ]
    return found


def _serve() -> None:
    import torch._dynamo  # noqa: F401  (an optimizer's first step wants it)

    import cookbook.rl
    import cookbook.sl  # noqa: F401
    import cookbook_plugin_local.client  # noqa: F401
    from cookbook import cli

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.alarm(120)  # nobody waits for ever
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for fd, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os.environ["COOKBOOK_RUNS"] = request["runs"]
            event = Event(request["runs"], **request["event"])
            event.install()
            code = cli.main(request["argv"])
            Path(request["ops"]).write_text(json.dumps(event.ops))
            sys.stdout.flush()
            os._exit(code)  # the end of an interpreter takes longer than the run
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
