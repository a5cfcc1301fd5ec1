"""Every hook a plugin can implement. A plugin registers names and import strings, nothing heavier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("cookbook")
hookimpl = pluggy.HookimplMarker("cookbook")


class Register(Protocol):
    """Adds one row `namespace/name` of the hook's kind.

    target: "pkg.mod:attr", imported only when the row is used. summary: one line for `cookbook list`.
    options: JSON-able keyword arguments handed to the target. needs: what it can't run without
    ("TINKER_API_KEY", "network", "gpu"). Raises `PluginError` for a row that can't be.
    """

    def __call__(
        self,
        name: str,
        target: str,
        summary: str,
        *,
        options: Mapping[str, Any] = {},
        needs: Sequence[str] = (),
    ) -> None: ...


@hookspec
def register_envs(register: Register) -> None:
    """EnvConfig: `tasks(split) -> Sequence[Task]`."""


@hookspec
def register_graders(register: Register) -> None:
    """GraderConfig: `grade(prompt, reply, reference) -> Grade`."""


@hookspec
def register_renderers(register: Register) -> None:
    """A callable `(tokenizer, **options) -> Renderer`."""


@hookspec
def register_datasets(register: Register) -> None:
    """DatasetConfig: `rows(split)`, a sequence or iterable of conversations or comparisons."""


@hookspec
def register_recipes(register: Register) -> None:
    """A callable `() -> chz.Blueprint` whose object has `async run(run)`."""


@hookspec
def register_backends(register: Register) -> None:
    """BackendConfig: `connect(run_dir) -> service client`."""


@hookspec
def register_trackers(register: Register) -> None:
    """TrackerConfig: `open(run) -> Tracker`."""


@hookspec
def register_commands(register: Register) -> None:
    """A callable `(argv) -> exit code`, reached as `cookbook <namespace> <name>`."""


@hookspec
def renderer_for_model(model: str) -> str | None:
    """The id of the renderer that fits this model (a name or a folder), or None."""
