"""`cookbook local export`: take trained weights elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cookbook.errors import ConfigError
from cookbook.runs import find_run, read_record, runs_dir, weights_of

if TYPE_CHECKING:
    from .states import State

_HELP = """\
usage: cookbook local export RUN [--peft DIR] [--merged DIR]

Writes the weights of a run on backend=local/torch in the forms that other programs load.
RUN is `last`, a run's name or the beginning of it, for its last checkpoint; RUN@STEP for
another one; or the path of saved weights, tinker://RUN/weights/NAME.

  --peft DIR    the adapter alone, for PEFT: adapter_config.json, adapter_model.safetensors
  --merged DIR  the model with the adapter merged into it, in fp32, for transformers and
                whatever reads its format: config.json, model.safetensors, the tokenizer
  -h, --help    show this

DIR is made, whole or not at all; one that holds something is refused."""


def main(argv: list[str]) -> int:
    """Run the command; returns 0. Raises ConfigError, UnknownIdError or BackendError, one line each, and
    OSError where it can't write."""
    if "-h" in argv or "--help" in argv:
        _say(_HELP)
        return 0
    name, targets = _parsed(argv)
    folders = {flag: _free(flag, place) for flag, place in targets.items()}
    if len(set(folders.values())) < len(folders):
        raise ConfigError(
            f"--peft and --merged both go to {folders['--peft']}; give each a folder of its own"
        )
    state, path = _state(name)

    from .export import export_merged, export_peft

    if folder := folders.get("--peft"):
        base = export_peft(state, folder)
        _say(f"{path}: a PEFT adapter of rank {state.lora.rank} on {base} is in {folder}")
    if folder := folders.get("--merged"):
        export_merged(state, folder)
        _say(f"{path}: merged with {state.base_model}, in fp32, it is in {folder}")
    return 0


def _parsed(argv: list[str]) -> tuple[str, dict[str, str]]:
    """RUN, and the folder given to each flag."""
    names: list[str] = []
    targets: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if word in ("--peft", "--merged"):
            targets[word] = next(words, "")
            if not targets[word] or targets[word].startswith("--"):
                raise ConfigError(f"cookbook local export: {word} needs a folder, {word} DIR")
        elif word.startswith("-"):
            raise ConfigError(f"cookbook local export knows --peft, --merged and --help, and not {word!r}")
        else:
            names.append(word)
    if len(names) != 1 or not targets:
        raise ConfigError(
            "cookbook local export takes one RUN, and --peft DIR or --merged DIR or both; `cookbook runs` "
            "shows the runs"
        )
    return names[0], targets


def _free(flag: str, place: str) -> Path:
    """The whole path of a folder to write. Raises ConfigError for one that holds something."""
    folder = Path(place).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{flag} {place}: there is something already; give a new folder, or remove it")
    return folder


def _state(name: str) -> tuple[State, str]:
    """Saved weights and their path."""
    if name.startswith("tinker://"):
        runs = runs_dir()
    else:
        folder = find_run(name.partition("@")[0])
        runs, backend = folder.parent, read_record(folder).get("config", {}).get("backend")
        if backend != "local/torch":
            raise ConfigError(
                f"run {folder.name} was on backend={backend}, which has its weights; only those of "
                "backend=local/torch are here to be exported"
            )
    path = weights_of(name)

    from . import states  # torch, which help and mistakes can do without

    return states.read(runs, path), path


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
