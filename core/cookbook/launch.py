"""From a recipe and its options to a run that has ended."""

from __future__ import annotations

import contextlib
from typing import Any

from . import registry
from .errors import CookbookError, PluginError
from .registry import Row
from .runs import Run


def blueprint_of(row: Row) -> Any:
    """The recipe of a row. Raises `PluginError` for what is none."""
    import chz

    make = row.load()
    try:
        blueprint = make()
    except CookbookError:
        raise
    except Exception as e:  # somebody's code
        raise PluginError(
            f"recipe {row.id} of {row.dist}: {' '.join(f'{type(e).__name__}: {e}'.split())}"
        ) from e
    if not isinstance(blueprint, chz.Blueprint):
        raise PluginError(
            f"recipe {row.id} of {row.dist} gave {type(blueprint).__name__}, not a chz.Blueprint"
        )
    return blueprint


def local_values(blueprint: Any) -> dict[str, Any]:
    """What `--local` lays over a recipe: this machine, its model in its own format, the recipe's own."""
    import chz

    backend = registry.find("backend", "local/torch").load()
    values = {"backend": "local/torch", "model": backend.default_model, "renderer": "auto"}
    fields = chz.chz_fields(blueprint.target)
    return {k: v for k, v in values.items() if k in fields} | getattr(blueprint, "local", {})


def start(run: Run, config: Any, quiet: bool = False) -> None:
    """Runs a config to its end, which the record tells, whatever it is; `quiet`: with no word to a person.

    A config may have a `console(run)` of its own, a `Tracker`. Raises what ended the run, with the command
    that goes on noted.
    """
    from . import interrupt
    from .console import Console

    if not quiet:
        run.trackers.append(getattr(config, "console", Console)(run))
    try:
        interrupt.run(config.run(run), run)
        run.end("done")
    except BaseException as e:
        name = "KeyboardInterrupt" if isinstance(e, KeyboardInterrupt) else type(e).__name__
        facts = {} if isinstance(e, KeyboardInterrupt) else {"error": " ".join(f"{name}: {e}".split())}
        with contextlib.suppress(OSError):  # on a full disk the record stays as it is; the first error tells
            run.end("interrupted" if isinstance(e, KeyboardInterrupt) else "failed", **facts)
        if run.begun or run.resumed:
            e.add_note(f"`cookbook resume {run.folder.name}` goes on after {run.unit} {run.kept}")
        raise
