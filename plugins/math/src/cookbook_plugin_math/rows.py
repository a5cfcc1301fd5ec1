"""Reads problems and their answers: from the Hugging Face hub, from local files, from the shipped samples.

`datasets` is imported where it is used, so that listing what there is stays light.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cookbook.errors import ConfigError

SAMPLE = "sample"  # the source= that means the files shipped here
SAMPLES = Path(__file__).parent / "samples"
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
_SPLIT = re.compile(r"(?:^|[-_. ])(train|test|validation|valid|val|dev|eval)(?:$|[-_. ])")

log = logging.getLogger("cookbook")


class Problem(NamedTuple):
    """A problem as the set has it, and the answer that a grader compares with."""

    text: str
    answer: str


@dataclass(frozen=True)
class HubSet:
    """A set on the hub, and what its rows are.

    problem, answer: its columns. read: the answer out of the latter, or None; form says how it stands
    there. configs: the parts that it is downloaded in, folders of the same names on disk; "" for none.
    """

    id: str
    problem: str
    answer: str
    read: Callable[[str], str | None]
    form: str
    configs: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]


class Place(NamedTuple):
    """Where rows are asked for.

    source: "" for the hub, `SAMPLE`, or a file or folder. option: its name on the command line.
    unsplit: the split that a file, or what else names none, counts as.
    """

    source: str
    option: str = "env.source"
    unsplit: str = "train"


def problems(hub: HubSet, splits: Sequence[str], place: Place) -> list[Problem]:
    """The problems of these splits, in the order of the set; empty where the source names no such split.

    Raises `ConfigError` with one line for a hub that can't be reached, for a file or folder that can't be
    read, for one without the columns, and for a row without a problem or an answer, unless it is the
    hub's own: those are left out, and how many is logged.
    """
    found: list[Problem] = []
    left_out: list[str] = []
    for split in splits:
        for where, table in _tables(hub, split, place):
            for row, problem in enumerate(_read(hub, where, table), start=1):
                if isinstance(problem, Problem):
                    found.append(problem)
                elif place.source:
                    raise ConfigError(f"{where}, row {row}: {problem}")
                else:
                    left_out.append(f"{where}, row {row}: {problem}")
    if left_out:
        log.warning("%s rows of %s left out; the first: %s", len(left_out), hub.id, left_out[0])
    return found


def _read(hub: HubSet, where: str, table: Any) -> Iterator[Problem | str]:
    """Each row's problem, or what is wrong with it."""
    for column in (hub.problem, hub.answer):
        if column not in table.column_names:
            raise ConfigError(
                f"{where}: no column {column!r} among {', '.join(table.column_names)}; a row has "
                f"{hub.problem!r} and {hub.answer!r}, as {hub.id} has them"
            )
    for text, solution in zip(table[hub.problem][:], table[hub.answer][:], strict=True):
        text, solution = _text(text), _text(solution)
        answer = hub.read(solution) if solution else None
        if not text:
            yield f"{hub.problem!r} holds no problem"
        elif not answer:
            yield f"{hub.answer!r} holds no answer; it must be {hub.form}"
        else:
            yield Problem(text, answer)


def _text(value: Any) -> str:
    """A column's value as a text; empty for what is none. Files may well hold an answer as a number."""
    if isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _tables(hub: HubSet, split: str, place: Place) -> Iterator[tuple[str, Any]]:
    """(where it lies, a `datasets.Dataset`) of each part of a split."""
    if not place.source:
        for config in hub.configs:
            yield f"{hub.id} ({config}, {split})".replace("(, ", "("), _download(hub, config, split, place)
        return
    path = SAMPLES / hub.name if place.source == SAMPLE else Path(place.source).expanduser()
    if path.is_dir():
        folders = [path / config for config in hub.configs if config and (path / config).is_dir()]
        for folder in folders or [path]:
            yield from _in_folder(folder, split, place, hub)
    elif not path.exists():
        raise ConfigError(
            f"{place.option}={place.source}: there is no such file or folder; leave it empty for {hub.id} "
            f"from the hub, give a file with {hub.problem!r} and {hub.answer!r}, or {place.option}={SAMPLE}"
        )
    elif path.suffix not in READERS:
        raise ConfigError(f"{path} isn't read: a file ends in {', '.join(READERS)}")
    elif split == place.unsplit:
        yield str(path), _from_file(path, hub)


def _in_folder(folder: Path, split: str, place: Place, hub: HubSet) -> Iterator[tuple[str, Any]]:
    """What `save_to_disk` wrote there, or the files, here and in data/, whose names tell the split."""
    saved = [name for name in ("dataset_dict.json", "state.json") if (folder / name).is_file()]
    if saved:
        import datasets

        with _one_line(str(folder)):
            table = datasets.load_from_disk(str(folder))
        if isinstance(table, datasets.DatasetDict):
            if split in table:
                yield f"{folder} ({split})", table[split]
        elif split == place.unsplit:
            yield str(folder), table
        return
    files = sorted(
        file
        for part in (folder, folder / "data")
        if part.is_dir()
        for file in part.iterdir()
        if file.suffix in READERS and not file.name.startswith(("dataset_info", "."))
    )
    if not files:
        raise ConfigError(
            f"{folder} holds no rows: files end in {', '.join(READERS)} and tell their split (train.jsonl), "
            "or save_to_disk made the folder"
        )
    for file in files:
        named = _SPLIT.search(file.stem)
        if (named[1] if named else place.unsplit) == split:
            yield str(file), _from_file(file, hub)


def _from_file(file: Path, hub: HubSet) -> Any:
    import datasets

    reader, options = READERS[file.suffix], {}
    if reader == "csv":  # as it is written: "007" is no number, and "NA" isn't nothing
        options = {"na_filter": False, "converters": {hub.problem: str, hub.answer: str}}
    with _one_line(str(file)), _quiet():
        return datasets.load_dataset(reader, data_files=[str(file)], split="train", **options)


def _download(hub: HubSet, config: str, split: str, place: Place) -> Any:
    import datasets

    try:
        return datasets.load_dataset(hub.id, config or None, split=split)
    except Exception as e:  # of the hub's client, its HTTP library, or the builder
        raise ConfigError(
            f"{hub.id} can't be had from the hub ({_reason(e)}): look to the network and HF_HUB_OFFLINE, or "
            f"give {place.option}=FILE or FOLDER with {hub.problem!r} and {hub.answer!r}; "
            f"{place.option}={SAMPLE} is a few shipped problems"
        ) from e


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
    """What pyarrow, pandas or datasets say of a file, in one line."""
    try:
        yield
    except StopIteration:  # how datasets says that a file is empty
        raise ConfigError(f"{where} holds no rows") from None
    except Exception as e:
        raise ConfigError(f"{where} can't be read ({_reason(e.__cause__ or e)})") from e


def _reason(e: BaseException) -> str:
    text = " ".join(str(e).split())
    return f"{type(e).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and log lines of a local file's conversion."""
    import datasets

    shown, level = not datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
