"""What a person sees of a run: a progress bar in a terminal, plain lines in a pipe, a table at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .kinds import Tracker
from .runs import Run
from .types import Episode

_LINE = (
    *("reward", "correct", "tokens/reply", "groups/constant", "train/kl_k1"),  # of RL
    *("nll", "tokens/trained"),  # of supervised learning
    "time/step_s",
)
_HEADLINES = ("correct", "reward", "nll")  # the first that an evaluation has is followed through the run


class Terminal(RichConsole):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`cookbook run ... | head`): the run goes on in silence."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console(Tracker):
    """Prints each step, each evaluation, and at the end the first against the last steps."""

    def __init__(self, run: Run, console: RichConsole | None = None) -> None:
        self._console = console or Terminal(highlight=False, soft_wrap=True)
        self._run, self._steps = run, 0
        self._rows: list[dict[str, Any]] = []
        self._evaluated: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._last_episode: tuple[int, Episode] | None = None
        self._progress: Progress | None = None

    def begin(self) -> None:
        """Says where the run lies and what it computes on, and starts the bar."""
        self._steps = self._run.record.get("steps", 0)
        self._say(f"run {self._run.folder}")
        facts = self._run.record.get("backend", {})
        if facts:
            self._say("on " + ", ".join(f"{k} {v}" for k, v in facts.items()))
        for line in self._run.record.get("warnings", ()):
            self._say(f"warning: {line}")
        if self._run.step:
            self._say(f"goes on after step {self._run.step}")
        if self._console.is_terminal:
            columns = TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, console=self._console)
            self._bar = self._progress.add_task("step", total=self._steps)
            self._progress.start()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        cells = [f"{name.split('/')[-1]} {number(row[name])}" for name in _LINE if name in row]
        self._say(f"step {step + 1:>{len(str(self._steps))}}/{self._steps}  " + "  ".join(cells))
        if self._progress:
            self._progress.update(self._bar, completed=step + 1)

    def evaluation(self, version: int, row: Mapping[str, Any]) -> None:
        for prefix in sorted({name.split("/")[0] for name in row if "/" in name}):
            for name in _HEADLINES:
                if f"{prefix}/{name}" in row:
                    found = self._evaluated.setdefault((prefix, name), [])
                    found.append((version, row[f"{prefix}/{name}"]))
                    break
            self._say(f"{prefix} of version {version}: {_evaluation(row, prefix)}")

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        if episodes:
            self._last_episode = step, episodes[0]

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
        if self._last_episode:
            step, episode = self._last_episode
            self._say(f"\nan episode of step {step + 1}, reward {episode.reward}:", style="bold")
            for message in episode.messages:
                self._say(f"  {message['role']}: {message['content']!r}")
        if len(self._rows) > 1:
            self._console.print(self._table())
        for (prefix, name), found in self._evaluated.items():
            (first, before), (last, after) = found[0], found[-1]
            if first != last:
                self._say(f"{prefix}: {name} {before:.3f} at version {first}, {after:.3f} at version {last}")
        if self._rows and not any(name.startswith("train/") for row in self._rows for name in row):
            self._say("no step had a gradient: in every group all rewards were equal")
        if self._rows:
            self._say(f"run {self._run.folder}")

    def _say(self, line: str, style: str | None = None) -> None:
        """One line as it is: "[red]" and ":smile:" in it are text."""
        self._console.print(line, style=style, markup=False, emoji=False, highlight=False)

    def _table(self) -> Table:
        n = max(1, min(5, len(self._rows) // 2))
        first, last = self._rows[:n], self._rows[-n:]
        table = Table("mean of steps", f"first {n}", f"last {n}")
        for name in self._rows[0]:
            a, b = _mean(first, name), _mean(last, name)
            if a is not None and b is not None and name not in ("n", "version"):
                table.add_row(Text(name), number(a), number(b))
        return table


def _evaluation(row: Mapping[str, Any], prefix: str) -> str:
    found = {
        name.removeprefix(f"{prefix}/"): value for name, value in row.items() if name.startswith(prefix + "/")
    }
    parts = []
    if "correct" in found:
        parts.append(f"correct {found['correct']:.3f} ± {found['correct_se']:.3f}")
    if "reward" in found:
        parts.append(f"reward {found['reward']:.3f}")
    if "nll" in found:
        parts.append(f"nll {found['nll']:.3f} nats a token, {found['bits_per_byte']:.3f} bits a byte")
    if found.get("undecided"):
        parts.append(f"{found['undecided']} without a verdict")
    return ", ".join(parts) + (f" ({found['n']} {'conversations' if 'nll' in found else 'episodes'})")


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
    return sum(values) / len(values) if values else None


def number(value: float) -> str:
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
