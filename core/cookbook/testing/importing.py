"""Imports one plugin in a fresh process, and tells what that did: `facts_of` starts it, `main` is it.

The process writes a line of JSON when the plugin is loaded and one for each row whose target it has imported,
so that a process which dies or hangs has told whose fault it was.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .limits import TookTooLong, deadline

HEAVY = (
    *("numpy", "torch", "transformers", "datasets", "tinker", "scipy", "sympy", "chromadb", "textarena"),
    *("verifiers", "pandas", "pyarrow", "sklearn", "matplotlib", "jax", "tensorflow", "openai", "tokenizers"),
    *("reasoning_gym", "huggingface_hub", "nltk", "spacy", "vllm", "ray"),
)
"""What takes long to import, and that no command which only lists rows needs."""

_GRACE_S = 5.0  # for the interpreter itself
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_FAULTS = (Exception, SystemExit, TookTooLong)
_BASES = {"env": "EnvConfig", "grader": "GraderConfig", "dataset": "DatasetConfig"}
_BASES |= {"backend": "BackendConfig", "tracker": "TrackerConfig"}


def facts_of(namespace: str, patience_s: float) -> list[dict[str, Any]]:
    """What the process told of the plugin, then of each of its rows, as far as it got.

    patience_s: how long each of them may take. Of the plugin: {"error": why it doesn't load, or "", "hung":
    whether that is because it took too long, "cpu_s": of its import and its hooks, "heavy": modules,
    "connections", "printed", "rows": [[kind, id, target], ...]}; of a row {"error": what is wrong with its
    target, or ""}.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.jsonl"
        told.touch()
        argv = [sys.executable, "-c", _SCRIPT, namespace, str(patience_s), str(told), json.dumps(sys.path)]
        nowhere = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        try:
            lines = 0
            while True:  # each line that it tells gives it as much time again
                try:
                    process.wait(patience_s + _GRACE_S)
                    break
                except subprocess.TimeoutExpired:
                    if len(_read(told)) == lines:
                        break
                    lines = len(_read(told))
        finally:
            process.kill()
            process.wait()
        return _read(told)


_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[4])
from cookbook.testing.importing import main
main(*sys.argv[1:4])
"""


def _read(told: Path) -> list[Any]:
    return [json.loads(line) for line in told.read_text().splitlines(keepends=True) if line.endswith("\n")]


def main(namespace: str, patience_s: str, told: str) -> None:
    """What the process does."""
    with Path(told).open("a", buffering=1) as out:
        registry, facts = _load(namespace, float(patience_s))
        out.write(json.dumps(facts) + "\n")
        for kind, id, _ in facts["rows"]:
            out.write(json.dumps({"error": _target_fault(registry, kind, id, float(patience_s))}) + "\n")


def _load(namespace: str, patience_s: float) -> tuple[Any, dict[str, Any]]:
    """The registry with this plugin alone, and what loading it did."""
    from importlib import metadata

    from ..registry import Registry

    points = list(metadata.entry_points(group="cookbook", name=namespace))
    connections: list[str] = []
    sys.addaudithook(lambda event, args: _note(event, args, connections))
    before, began, registry, error = set(sys.modules), time.process_time(), Registry([]), ""
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)  # where the registry sends a plugin's standard output, too
        try:
            with deadline(patience_s):
                registry = Registry(points)
        except TookTooLong as late:
            error = str(late)
        cpu_s = time.process_time() - began
        sys.stderr.flush()
        printed.seek(0)
        text = printed.read(400).decode(errors="replace")
    hung = bool(error)
    broken = [problem for p in registry.plugins if p.status != "ok" for problem in p.problems]
    facts = {
        "error": error or "; ".join(broken),
        "hung": hung,
        "cpu_s": cpu_s,
        "heavy": sorted({name for name in HEAVY if name in sys.modules} - before),
        "connections": connections[:3],
        "printed": text,
        "rows": [[row.kind, row.id, row.target] for row in registry.rows()],
    }
    return registry, facts


def _note(event: str, args: Any, connections: list[str]) -> None:
    if event in _CONNECTS:
        import socket  # what connects has it already

        where = args[1] if isinstance(args[0], socket.socket) else args[0]
        connections.append(f"{event.removeprefix('socket.')} {where}")


def _target_fault(registry: Any, kind: str, id: str, patience_s: float) -> str:
    """What is wrong with the target of a row, or ""."""
    try:
        with deadline(patience_s):
            target = registry.find(kind, id).load()
            return _not_of_its_kind(kind, target)
    except _FAULTS as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def _not_of_its_kind(kind: str, target: Any) -> str:
    """Raises what the target raises."""
    import chz

    from .. import kinds

    cls = getattr(target, "func", target)
    name = getattr(cls, "__qualname__", repr(cls))
    if kind in _BASES:
        base = getattr(kinds, _BASES[kind])
        derived = isinstance(cls, type) and issubclass(cls, base) and chz.is_chz(cls)
        if not derived:
            return f"{name} is no @chz.chz class derived from {base.__name__}"
        return "" if "__chz_fields__" in vars(cls) else f"{name} has no @chz.chz above it"
    if not callable(target):
        return f"{name} can't be called"
    argument = {"renderer": "tokenizer", "command": "argv"}.get(kind)
    if not _takes(target, *([argument] if argument else [])):
        return f"{name}{inspect.signature(target)} can't be called as {name}({argument or ''})"
    if kind == "recipe" and not isinstance(made := target(), chz.Blueprint):
        return f"{name}() gave {type(made).__name__}, not a chz.Blueprint"
    return ""


def _takes(target: Any, *arguments: Any) -> bool:
    try:
        inspect.signature(target).bind(*arguments)
    except TypeError:
        return False
    return True
