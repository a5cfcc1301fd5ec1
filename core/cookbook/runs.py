"""The run directory: record.json, metrics.jsonl, evaluations.jsonl, episodes.jsonl, checkpoints.jsonl.

record.json is written whole and then renamed into place; the others are only appended to, a line at a
time, and cut back to what a checkpoint knows when a run goes on from it. Nothing is written before
`Run.begin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import files
from .errors import BackendError, ConfigError, RunExistsError, UnknownIdError
from .kinds import Tracker, TrackerConfig
from .types import Episode, Turn

ROWS = ("metrics.jsonl", "evaluations.jsonl", "episodes.jsonl")
CHECKPOINTS = "checkpoints.jsonl"
log = logging.getLogger("cookbook")
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
    `last_step` how many in all. `checkpoint_row` is what a resumed run goes on from. `stop` is set when
    somebody wants the run to end at the next whole step."""

    def __init__(
        self, folder: Path, record: Mapping[str, Any], *, now: Callable[[], float] = time.time
    ) -> None:
        """record: what is known before anything is built. now: seconds since the epoch."""
        self.folder, self.record, self._now = folder, dict(record), now
        self.step = self.kept = 0  # kept: where a resume would go on
        self.unit = "step"  # of `step`, in words
        self.checkpoint_row: dict[str, Any] | None = None
        self.trackers: list[Tracker] = []
        self.stop = asyncio.Event()
        self.stoppable = False  # whether anybody heeds `stop`
        self.resumed = False
        self.begun = False  # whether it is on disk
        self.last_evaluated = -1  # the newest version that has a row
        self._rows: dict[str, int] = dict.fromkeys(ROWS, 0)
        self._lock: int | None = None

    @classmethod
    def reopen(cls, folder: Path, *, now: Callable[[], float] = time.time) -> Run:
        """A run that ended before its last step, at its last checkpoint whose row is whole. Changes
        nothing on disk yet. Raises `ConfigError` for a run that is done or still running."""
        record = read_record(folder)
        if record["status"] in ("done", "unreadable"):
            raise ConfigError(
                _done(folder)
                if record["status"] == "done"
                else f"{folder}/record.json can't be read, so what ran there can't be told; start a new run"
            )
        run = cls(folder, record, now=now)
        run._take_lock()
        run.resumed = True
        rows = read_rows(folder, CHECKPOINTS)
        if rows:
            run.checkpoint_row = rows[-1]
            run.step = run.kept = run.checkpoint_row["step"]
            run._rows = {name: run.checkpoint_row["rows"][name] for name in ROWS}
        return run

    def begin(self, *, trackers: Sequence[TrackerConfig] = (), **facts: Any) -> None:
        """Makes the folder, or cuts its files back to the checkpoint, and writes the record; from here on
        the run is on disk.

        trackers: `TrackerConfig`s to open. facts: what was found out while building, kept in the record.
        Raises `RunExistsError`.
        """
        if self.resumed:
            self._cut_back(facts)
        else:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.folder.mkdir()
            except FileExistsError:
                raise RunExistsError(f"{self.folder} is there already: choose another --name") from None
            self._take_lock()
            self.record["started"] = self._stamp()
        self._write_record(**facts, status="running", last_step=self.step)
        self.begun = True
        for name in (*ROWS, CHECKPOINTS):
            (self.folder / name).touch()
        self.trackers += [tracker.open(self) for tracker in trackers]
        for tracker in self.trackers:
            tracker.begin()

    def _cut_back(self, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            was = self.record.get(key)
            if was != value and key not in ("warnings",):
                log.warning("%s was %s and is %s: the same bits aren't to be expected", key, was, value)
        keep: dict[str, int] = dict(self._rows)
        keep[CHECKPOINTS] = len(read_rows(self.folder, CHECKPOINTS))
        for name, n in keep.items():
            _keep_rows(self.folder / name, n)
        for row in read_rows(self.folder, "evaluations.jsonl"):
            self.last_evaluated = row["version"]
        for key in ("ended", "error"):
            self.record.pop(key, None)
        self.record.setdefault("resumed", []).append({"at": self._stamp(), "step": self.step})

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """A row of metrics of one step."""
        self._append("metrics.jsonl", {"step": step, **_finite(step, row)})
        self.record["last_step"] = step + 1
        for tracker in self.trackers:
            tracker.log(step, row)

    def evaluation(self, version: int, row: Mapping[str, Any]) -> None:
        """A row of what held-out tasks gave, by the weights after `version` batches."""
        self._append("evaluations.jsonl", {"version": version, **_finite(version, row)})
        self.last_evaluated = version

    def episodes(self, step: int, groups: Sequence[Sequence[Episode]]) -> None:
        """Transcripts of these groups: messages, tokens, rewards."""
        for group, episodes in enumerate(groups):
            for index, episode in enumerate(episodes):
                place = {"step": step, "group": group, "episode": index}
                self._append("episodes.jsonl", place | dataclasses.asdict(episode))
        for tracker in self.trackers:
            tracker.episodes(step, [e for episodes in groups for e in episodes])

    def played(self, task: int, episodes: Sequence[Episode]) -> None:
        """The transcripts of one task of an evaluation, in the order of the tasks. Nothing else is needed to
        go on, with the last task that has any, as `replayed` says."""
        self.episodes(task, [episodes])
        self.record["last_step"] = task + 1
        self.kept = task if episodes else self.kept

    def replayed(self) -> list[list[Episode]]:
        """Of an evaluation that goes on, the episodes of the tasks that it keeps: all that `played` wrote but
        the last task, of which half may be missing. To be asked before `begin`."""
        found = transcripts(self.folder)
        self.step = self.kept = max(found, default=0)
        groups = [found.get(task, []) for task in range(self.step)]
        self._rows["episodes.jsonl"] = sum(map(len, groups))
        return groups

    def checkpoint(self, step: int, path: str, **facts: Any) -> dict[str, Any]:
        """Writes and returns a row on saved weights, once all that it relies on would survive a power cut.

        step: batches consumed, which is the checkpoint's label. rows: how many rows the other files have
        at this moment, where a resume cuts them off.
        """
        for name in ROWS:
            files.sync(self.folder / name)
        row = {"step": step, "path": path, **facts, "rows": dict(self._rows)}
        self._append(CHECKPOINTS, row)
        files.sync(self.folder / CHECKPOINTS)
        self.checkpoint_row, self.kept = row, step
        return row

    def end(self, status: str, **facts: Any) -> None:
        """Writes how the run ended, where it ever began, and closes the trackers, each whatever befalls
        the others."""
        with contextlib.ExitStack() as closing:
            if self._lock is not None:
                closing.callback(os.close, self._lock)
                self._lock = None
            while self.trackers:
                closing.callback(self.trackers.pop(0).close)
            if self.begun:
                self._write_record(**facts, status=status, ended=self._stamp())

    def _take_lock(self) -> None:
        """Held until the process ends, however it ends."""
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(self._lock):
            os.close(self._lock)
            self._lock = None
            raise ConfigError(f"{self.folder} is being run by another process; wait for it, or stop it")

    def _write_record(self, **facts: Any) -> None:
        self.record.update(facts)
        text = json.dumps(self.record, indent=1, ensure_ascii=False)
        files.replace(self.folder / "record.json", _utf8(text))

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        files.append(self.folder / name, _utf8(line))
        if name in self._rows:
            self._rows[name] += 1

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")


def _done(folder: Path) -> str:
    name = folder.name
    if read_rows(folder, CHECKPOINTS):
        return f"{folder} is done; `cookbook run --from {name} load={name}` trains its weights further"
    return f"{folder} is done; `cookbook run --from {name}` runs it again"


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _finite(step: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises `BackendError` for a number that isn't finite: training went astray."""
    astray = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    if astray:
        raise BackendError(f"step {step}: {', '.join(astray)} not finite; a smaller lr may help")
    return row


def _keep_rows(path: Path, n: int) -> None:
    """Cuts a file off after its first n lines. Raises `ConfigError` where it has fewer."""
    end = 0
    if n or path.exists():
        with path.open("rb") as file:
            for at in range(n):
                line = file.readline()
                if not line.endswith(b"\n"):
                    raise ConfigError(
                        f"{path} has {at} rows where the checkpoint knows of {n}: it was changed"
                    )
                end += len(line)
        os.truncate(path, end)


def _utf8(text: str) -> bytes:
    """JSON as bytes. Half a character (a lone surrogate, which a model's "\\ud800" is once it is read) stays
    the escape that it was."""
    return text.encode(errors="backslashreplace")


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def transcripts(folder: Path) -> dict[int, list[Episode]]:
    """The episodes of an evaluation that are on disk, by the number of their task."""
    found: dict[int, list[Episode]] = {}
    for row in read_rows(folder, "episodes.jsonl"):
        facts = {k: v for k, v in row.items() if k not in ("step", "group", "episode", "turns")}
        episode = Episode(turns=[Turn(**turn) for turn in row["turns"]], **facts)
        found.setdefault(row["step"], []).append(episode)
    return found


def list_runs() -> list[Path]:
    """All runs, the oldest first; those whose record can't be read come before them."""
    folders = [path.parent for path in runs_dir().glob("*/record.json")]
    return sorted(folders, key=lambda folder: (read_record(folder)["started"], folder))


def find_run(name: str) -> Path:
    """A run by its name, the beginning of it, its folder, or "last". Raises `UnknownIdError`."""
    folders = list_runs()
    if name == "last" and folders:
        return folders[-1]
    if len(Path(name).parts) > 1 and (Path(name) / "record.json").is_file():
        return Path(name)
    begin = [f for f in folders if name and f.name.startswith(name)]
    found = [f for f in folders if f.name == name] or begin
    if len(found) > 1:
        raise UnknownIdError(f"{name!r} could be {', '.join(f.name for f in found)}; give more of it")
    if not found:
        raise UnknownIdError(f"there is no run {name!r} in {runs_dir()}; `cookbook runs` shows what there is")
    return found[0]


def weights_of(name: str) -> str:
    """The path of saved weights: tinker://... itself, or a run's last checkpoint, or RUN@STEP's.

    Raises `UnknownIdError` for a run or a step that isn't there.
    """
    if name.startswith("tinker://"):
        return name
    run, _, step = name.partition("@")
    folder = find_run(run)
    rows = {str(row["step"]): row["path"] for row in read_rows(folder, CHECKPOINTS)}
    if not rows or (step and step not in rows):
        which = f"no checkpoint of step {step}" if step else "no checkpoint"
        raise UnknownIdError(f"run {folder.name} has {which}; it has {', '.join(rows) or 'none'}")
    return rows[step or list(rows)[-1]]


def record_of(name: str) -> dict[str, Any]:
    """The record of the run that saved weights are of, named as in `weights_of`; {} for tinker://..., which
    doesn't say. Raises `UnknownIdError` for a run that isn't there."""
    return {} if name.startswith("tinker://") else read_record(find_run(name.partition("@")[0]))


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; of one that was damaged, just the keys that every record has."""
    blank = {"status": "unreadable", "started": "", "last_step": ""}
    try:
        return blank | json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return blank


def status(folder: Path) -> str:
    """As the record has it, or "killed" where it says running and no process is."""
    said = read_record(folder)["status"]
    if said != "running" or not (folder / "lock").is_file():
        return said
    fd = os.open(folder / "lock", os.O_RDONLY)
    try:
        return "killed" if _lock(fd) else said
    finally:
        os.close(fd)


def read_rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The whole rows of one of the run's JSON-lines files: a run that is killed may leave half a line,
    or no file yet."""
    if not (folder / name).exists():
        return []
    with (folder / name).open(encoding="utf-8", errors="replace") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
