"""Conversations from a JSONL file, or the ones that come with the package."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import chz

from cookbook import DatasetConfig, Message
from cookbook.errors import ConfigError
from cookbook.streams import shuffled

Conversation = list[Message]

_ROLES = ("system", "user", "assistant")
_BOM = b"\xef\xbb\xbf"
_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_NOTHING = (None, "", [])


@chz.chz(typecheck=True)
class Conversations(DatasetConfig):
    """A conversation a line: {"kind": "...", "messages": [{"role": "...", "content": "..."}, ...]}.

    A row is held out by its place in the file, whatever the seed of the run; one of a held-out kind
    is in no training split either. The training rows, the held-out rows of the trained kinds and the
    rows of the held-out kinds are disjoint, and together they are the whole file.
    """

    source: str = chz.field(default="", doc="a JSONL file; empty: the conversations of this package")
    held_out: float = chz.field(default=0.1, doc="share of the rows that isn't trained on")
    held_out_kinds: tuple[str, ...] = chz.field(default=(), doc='rows of these "kind"s aren\'t trained on')
    test: Literal["rows", "kinds"] = chz.field(
        default="rows", doc="what the test split holds: the held-out rows, or those of the held-out kinds"
    )

    @chz.validate
    def _check(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out}: must be from 0 to less than 1, such as 0.1")
        if self.test == "kinds" and not self.held_out_kinds:
            raise ConfigError("test=kinds without held-out kinds: add held_out_kinds=..., or take test=rows")

    def rows(self, split: str) -> Sequence[Conversation]:
        """The conversations of "train" or "test", in the order of the file.

        Raises ValueError for another split, and `ConfigError` for a file that isn't conversations, for a
        held-out kind that it doesn't have, and where nothing is left to train on.
        """
        if split not in ("train", "test"):
            raise ValueError(f"chat/conversations has the splits train and test, not {split!r}")
        all_rows = self._all_rows
        by_kind = [kind in self.held_out_kinds for kind, _ in all_rows]
        by_place = self._held_out_places(len(all_rows))
        found = []
        for i, (_, conversation) in enumerate(all_rows):
            part = "kinds" if by_kind[i] else "rows" if i in by_place else "train"
            if part == (self.test if split == "test" else "train"):
                found.append(conversation)
        if split == "train" and not found:
            raise ConfigError(
                f"held_out={self.held_out}, held_out_kinds={','.join(self.held_out_kinds)}: no row is left "
                "to train on; hold out less"
            )
        return found

    def _held_out_places(self, n: int) -> set[int]:
        """At least one row, if any are asked for and one is left to train on."""
        held_out = min(max(1, round(self.held_out * n)), n - 1) if self.held_out else 0
        return {shuffled(i, n, "chat/conversations") for i in range(held_out)}

    @functools.cached_property
    def _all_rows(self) -> list[tuple[str | None, Conversation]]:
        rows = read(self.source)
        kinds = sorted({kind for kind, _ in rows if kind is not None})
        for kind in self.held_out_kinds:
            if kind not in kinds:
                there = f"its kinds are {', '.join(kinds)}" if kinds else 'none of its rows has a "kind"'
                raise ConfigError(
                    f"held_out_kinds: {self.source or 'the shipped file'} has no kind {kind!r}; {there}"
                )
        return rows


def read(source: str) -> list[tuple[str | None, Conversation]]:
    """[(kind or None, conversation)] of a JSONL file, or of the shipped one for "".

    Raises `ConfigError`, which names the file and the number of the line, for what isn't a conversation.
    """
    file: Traversable = Path(source).expanduser()
    if not source:
        file = resources.files(__package__ or "cookbook_plugin_chat") / "conversations.jsonl"
    try:
        data = file.read_bytes()
    except OSError as e:
        raise ConfigError(f"source={source}: {e.strerror}; give a JSONL file, each line {_FORM}") from e
    rows = []
    for number, line in _lines(data):
        try:
            rows.append(_row(line))
        except ValueError as e:
            raise ConfigError(f"{file}, line {number}: {e}") from e
    if not rows:
        raise ConfigError(f"{file} holds no conversation; each line must be {_FORM}")
    return rows


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines, from 1; without one byte-order mark at the start and blank lines at the end."""
    data = data.removeprefix(_BOM).rstrip()
    return enumerate(data.split(b"\n") if data else [], start=1)


def _row(line: bytes) -> tuple[str | None, Conversation]:
    """Raises ValueError with one line on what is wrong and what would be right."""
    row = _parsed(line)
    if not isinstance(row, dict):
        raise ValueError(f"is {_shown(row)}, not an object; it must be {_FORM}")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        what = 'no "messages"' if "messages" not in row else f'"messages" is {_shown(messages)}'
        raise ValueError(f"{what}; it must be {_FORM}")
    if not isinstance(row.get("kind", ""), str):
        raise ValueError(f'"kind" is {_shown(row["kind"])}; it must be a string, or be left out')
    conversation = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if all(message["role"] != "assistant" for message in conversation):
        raise ValueError("no assistant message, so there is nothing to learn; add one, or leave the line out")
    return row.get("kind"), conversation


def _parsed(line: bytes) -> Any:
    if not line.strip():
        raise ValueError("is blank; only the end of the file may be, so remove it")
    if line.startswith(_BOM):
        raise ValueError("begins with a byte-order mark, as where files were joined; remove it")
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as e:
        raise ValueError(f"isn't UTF-8 from byte {e.start} on; save the file as UTF-8") from e
    except (ValueError, RecursionError) as e:
        raise ValueError(f"isn't JSON ({e}); it must be {_FORM}, all in one line") from e


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f'{where} is {_shown(message)}; it must be {{"role": "...", "content": "..."}}')
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            what = f"has no {key}" if key not in message else f"has the {key} {_shown(message[key])}"
            raise ValueError(f"{where} {what}; it must be a string")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise ValueError(f"{where} has the role {_shown(role)}; it must be {', '.join(_ROLES)}")
    if role == "assistant" and not content.strip():
        raise ValueError(f"{where} is an assistant message that says nothing; fill it, or leave it out")
    if any("\ud800" <= char <= "\udfff" for char in content):
        raise ValueError(f"{where} holds half of a character (a lone \\ud... escape); mend its content")
    # What isn't null may change what ought to be learned: "weight", "tool_calls", "reasoning_content".
    more = [k for k, v in message.items() if k not in ("role", "content") and v not in _NOTHING]
    if more:
        raise ValueError(f"{where} has {', '.join(more)} too, which isn't read here; remove it")
    return Message(role=role, content=content)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
