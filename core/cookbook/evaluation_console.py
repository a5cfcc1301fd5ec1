"""What a person sees of an evaluation: a bar in a terminal, then a short table, then where it all is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import Terminal, number
from .kinds import Tracker
from .runs import Run
from .types import Episode


class EvaluationConsole(Tracker):
    """Prints the result as a table, in plain lines."""

    def __init__(self, run: Run, console: RichConsole | None = None) -> None:
        self._console = console or Terminal(highlight=False, soft_wrap=True)
        self._run = run
        self._progress: Progress | None = None

    def begin(self) -> None:
        for line in self._run.record.get("warnings", ()):
            self._say(f"warning: {line}")
        if self._run.step:
            self._say(f"goes on after task {self._run.step}")
        if self._console.is_terminal:
            columns = TextColumn("task"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, console=self._console, transient=True)
            total = self._run.record["tasks"]
            self._bar = self._progress.add_task("task", total=total, completed=self._run.step)
            self._progress.start()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """An evaluation has no steps."""

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        if self._progress:
            self._progress.update(self._bar, completed=step + 1)

    def evaluation(self, version: int, row: Mapping[str, Any]) -> None:
        self._stop()
        for line in table(self._run.record, row):
            self._say(line)

    def close(self) -> None:
        self._stop()
        if self._run.begun:
            self._say(f"run {self._run.folder}")

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, emoji=False, highlight=False)


def table(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The lines of an evaluation's row: whom it tells of, means with their standard errors, counts."""
    config, found = record["config"], {name.removeprefix("eval/"): value for name, value in row.items()}
    who = config["model"] + (f" with {record['loaded']}" if "loaded" in record else "")
    tasks, failed = found["tasks"], f", {found['failed']} failed" if found["failed"] else ""
    temperature = f"temperature {config['temperature']:g}"
    lines = [
        f"{config['env']}, {config['split']}, by {who}",
        f"{tasks} tasks{failed}, {config['samples']} of each at {temperature}: {found['n']} episodes; "
        "± is a standard error, by task",
    ]
    means = [name for name in found if name in ("correct", "reward") or _is_pass(name)]
    width = max(map(len, found))
    for name in sorted(means, key=lambda name: (name != "correct", name != "reward")):
        if name == "pass@1" and config["samples"] == 1:
            continue  # that is `correct`
        error = f" ± {found[f'{name}_se']:.3f}" if f"{name}_se" in found else ""
        fewer = found.get(f"{name}_tasks", tasks)
        lines.append(
            f"  {name:<{width}}  {found[name]:.3f}{error}" + (f" ({fewer} tasks)" if fewer < tasks else "")
        )
    counts = f"{found['right']}, wrong {found['wrong']}, undecided {found['undecided']}"
    lines.append(f"  {'right':<{width}}  {counts}")
    others = [n for n in found if n.startswith(("stop/", "env/", "tokens/")) or n == "turns"]
    return lines + [f"  {name:<{width}}  {number(found[name])}" for name in others]


def _is_pass(name: str) -> bool:
    return name.startswith("pass@") and name[len("pass@") :].isdecimal()
