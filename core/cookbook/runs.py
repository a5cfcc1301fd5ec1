"""The run directory: record.json, metrics.jsonl, episodes.jsonl, checkpoints.jsonl.

record.json is written whole and then renamed into place; the others are only appended to, a line at a
time. Nothing is written before `Run.begin`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .configs import Tracker, TrackerConfig
from .errors import BackendError, ConfigError, RunExistsError
from .types import Episode

JSON_LINES = ("metrics.jsonl", "episodes.jsonl", "checkpoints.jsonl")
_NAME = re.compile(r"\w[\w.-]*")


def runs_dir() -> Path:
    """Where runs lie: $COOKBOOK_RUNS, else `runs` in the current folder."""
    return Path(os.environ.get("COOKBOOK_RUNS") or "runs")


def new_folder(recipe: str, name: str | None = None) -> Path:
    """A folder for a new run, not made yet. Raises `RunExistsError` for a name that is taken, and
    `ConfigError` for one that no run can have."""
    if name is not None and (not _NAME.fullmatch(name) or name == "last"):
        raise ConfigError(f"--name {name!r}: must be letters, digits and any of ._- (and not 'last')")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = runs_dir() / (name or f"{recipe.replace('/', '-')}-{stamp}-{secrets.token_hex(2)}")
    if folder.exists():
        raise RunExistsError(f"{folder} is there already: choose another --name, or delete that folder")
    return folder


class Run:
    """One run's folder. `step` is the number of batches consumed before this process began, the record's
    `last_step` how many in all."""

    def __init__(
        self, folder: Path, record: Mapping[str, Any], *, now: Callable[[], float] = time.time
    ) -> None:
        """record: what is known before anything is built. now: seconds since the epoch."""
        self.folder, self.record, self._now = folder, dict(record), now
        self.step = 0
        self.trackers: list[Tracker] = []
        self._begun = False

    def begin(self, *, trackers: Sequence[TrackerConfig] = (), **facts: Any) -> None:
        """Makes the folder and writes the record; from here on the run is on disk.

        trackers: `TrackerConfig`s to open. facts: what was found out while building, kept in the record.
        Raises `RunExistsError`.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.mkdir()
        except FileExistsError:
            raise RunExistsError(f"{self.folder} is there already: choose another --name") from None
        for name in JSON_LINES:
            (self.folder / name).touch()
        self._begun = True
        self._write_record(**facts, status="running", started=self._stamp(), last_step=self.step)
        self.trackers += [tracker.open(self) for tracker in trackers]
        for tracker in self.trackers:
            tracker.begin()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """A row of metrics for the files and the trackers."""
        self.write(step, row)
        self.track(step, row)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """A row for the files alone, whose order must not depend on what was fast.

        Raises `BackendError` for a number that isn't finite: training went astray.
        """
        astray = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        if astray:
            raise BackendError(f"step {step}: {', '.join(astray)} not finite; a smaller lr may help")
        self._append("metrics.jsonl", {"step": step, **row})
        evaluated = any(name.startswith("eval") for name in row)  # of a version, which may be an old one
        self.record["last_step"] = max(self.record["last_step"], step if evaluated else step + 1)

    def track(self, step: int, row: Mapping[str, Any]) -> None:
        """A row for the trackers alone, as soon as it is known."""
        for tracker in self.trackers:
            tracker.log(step, row)

    def episodes(self, step: int, groups: Sequence[Sequence[Episode]]) -> None:
        """Transcripts of these groups: messages, tokens, rewards."""
        for group, episodes in enumerate(groups):
            for index, episode in enumerate(episodes):
                place = {"step": step, "group": group, "episode": index}
                self._append("episodes.jsonl", place | dataclasses.asdict(episode))
        for tracker in self.trackers:
            tracker.episodes(step, [e for episodes in groups for e in episodes])

    def checkpoint(self, step: int, path: str, optimizer_steps: int) -> None:
        """A row on saved weights. step: batches consumed, which is the checkpoint's label.

        offsets: the length in bytes of the other files at this moment.
        """
        offsets = {name: (self.folder / name).stat().st_size for name in JSON_LINES[:2]}
        row = {"step": step, "path": path, "optimizer_steps": optimizer_steps, "offsets": offsets}
        self._append("checkpoints.jsonl", row)

    def end(self, status: str, **facts: Any) -> None:
        """Writes how the run ended, where it ever began, and closes the trackers, each whatever befalls
        the others."""
        with contextlib.ExitStack() as closing:
            for tracker in reversed(self.trackers):
                closing.callback(tracker.close)
            if self._begun:
                self._write_record(**facts, status=status, ended=self._stamp())

    def _write_record(self, **facts: Any) -> None:
        self.record.update(facts)
        part = self.folder / "record.json.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(self.record, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / "record.json")

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(line)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def list_runs() -> list[Path]:
    """All runs, the oldest first; those whose record can't be read come before them."""
    folders = [path.parent for path in runs_dir().glob("*/record.json")]
    return sorted(folders, key=lambda folder: (read_record(folder)["started"], folder))


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; of one that was damaged, just the keys that every record has."""
    blank = {"status": "unreadable", "started": "", "last_step": ""}
    try:
        return blank | json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return blank


def read_rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The whole rows of one of the run's JSON-lines files: a run that is killed may leave half a line."""
    with (folder / name).open(encoding="utf-8", errors="replace") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
