"""L1 and L2 of a dataset: that its rows are conversations, and always the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import chz

from ..configs import by_id, settle
from ..errors import CookbookError
from ..kinds import DatasetConfig
from ..rendering import plain
from ..sl import rows_of
from .limits import TookTooLong, deadline
from .rules import Report

ROWS = 50
"""Of each split, that are read as messages."""
MOST = 5_000
"""Of each split, in which a row of the other is looked for."""
PATIENCE_S = 120.0
_FAULTS = (Exception, SystemExit, TookTooLong)


@chz.chz
class _Holder:
    data: DatasetConfig = chz.field(meta_factory=by_id("dataset"))


def check_dataset(dataset: str | DatasetConfig) -> Report:
    """Looks at a dataset with its defaults, by an id or "module:Class", or at a config as it is."""
    report = Report(f"dataset {dataset if isinstance(dataset, str) else type(dataset).__name__}")

    def make() -> DatasetConfig:
        if isinstance(dataset, str):
            return settle(_Holder, [("check", {"data": dataset})]).config.data
        return chz.replace(dataset)

    try:
        with deadline(PATIENCE_S):
            make()
    except _FAULTS as error:
        report.find("L1.dataset-builds", _told(error))
        return report
    if isinstance(dataset, str):
        _survives_json(dataset, report)
    else:
        report.unchecked["L1.dataset-json"] = "the check was given an object, not an id"
    train, test = (_rows(make, split, report) for split in ("train", "test"))
    if train is None or test is None:
        return report
    report.facts |= {"rows/train": len(train), "rows/test": len(test)}
    if not train:
        report.find("L1.dataset-rows", "rows('train') is empty")
    _are_conversations(train[:ROWS], "train", report)
    _are_conversations(test[:ROWS], "test", report)
    if _texts(_rows(make, "train", report) or []) != _texts(train):
        report.find("L2.dataset-same", "rows('train') gave others when the config was built again")
    both = set(_texts(train)) & set(_texts(test))
    if both:
        report.find("L2.dataset-split", f"{len(both)} rows, {_short(min(both))} say")
    return report


def _rows(make: Callable[[], DatasetConfig], split: str, report: Report) -> list[Any] | None:
    """The first rows of a split, of a config built for it; None where there are none to look at."""
    try:
        with deadline(PATIENCE_S):
            return list(rows_of(make(), split, MOST))
    except _FAULTS as error:
        report.find("L1.dataset-rows", f"rows({split!r}): {_told(error)}")
        return None


def _are_conversations(rows: Sequence[Any], split: str, report: Report) -> None:
    for i, messages in enumerate(rows):
        where = f"row {i} of {split}"
        try:
            said = [plain(message, f"{where}, messages[{j}],") for j, message in enumerate(messages)]
        except (CookbookError, TypeError) as error:
            report.find("L1.dataset-rows", str(error))
            return
        if all(message.role != "assistant" for message in said):
            report.find("L1.dataset-learns", f"{where} has the roles {[m.role for m in said]}")


def _survives_json(dataset: str, report: Report) -> None:
    try:
        values = settle(_Holder, [("check", {"data": dataset})]).values()
        kept = json.loads(json.dumps(values, allow_nan=False))
        again = settle(_Holder, [("check", kept)]).values()
        if again != values:
            changed = [name for name in values if again.get(name) != values[name]]
            report.find("L1.dataset-json", f"{', '.join(changed)} came back as something else")
    except _FAULTS as error:
        report.find("L1.dataset-json", _told(error))


def _texts(rows: Sequence[Any]) -> list[str]:
    return [json.dumps(row, sort_keys=True, default=repr, ensure_ascii=False) for row in rows]


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, CookbookError) else f"{type(error).__name__}: {error}"


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
