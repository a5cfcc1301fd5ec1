"""Weights on disk: tinker://<run>/weights/<name>, and sampler_weights likewise, in the runs' folders.

A folder appears whole or not at all, and survives a power cut from then on.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from cookbook import files
from cookbook.errors import BackendError

from .llama import LlamaShape, Lora
from .sdk import ServiceError

PARTS = {"attn": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
"""What of a layer can be trained, by the SDK's names, and the LoRA's modules of each."""

KINDS = ("weights", "sampler_weights")
_LORA, _ADAM = "lora.safetensors", "adam.safetensors"
_PATH = re.compile(r"tinker://(?!\.\.?/)([^/\\]+)/(weights|sampler_weights)/(?!\.)([^/\\]+)")
_NAME = re.compile(r"(?!\.)[^/\\]+")


@dataclass(frozen=True)
class State:
    """What is kept of training. moments: Adam's state; None: saved for sampling only. trained: of PARTS.

    user_metadata: a script's notes on this checkpoint; run_metadata: on the run that it is of.
    """

    base_model: str
    lora: Lora
    moments: Mapping[str, torch.Tensor] | None = None
    trained: tuple[str, ...] = tuple(PARTS)
    user_metadata: Mapping[str, str] | None = None
    run_metadata: Mapping[str, str] | None = None

    @property
    def frozen(self) -> list[str]:
        """The LoRA's parameters that training leaves as they are."""
        modules = {module for part in self.trained for module in PARTS[part]}
        return [name for name in self.lora.parameters if name.split(".")[1] not in modules]

    def fitting(self, shape: LlamaShape) -> State:
        """The same, its parameters in a fresh LoRA's order. Raises `BackendError` for another model's."""
        mine, sizes = self.lora.parameters, Lora.sizes(shape, self.lora.rank)
        if {name: tuple(p.shape) for name, p in mine.items()} != sizes:
            raise BackendError(
                f"saved weights: a LoRA of rank {self.lora.rank} on {self.base_model or 'a model'}, which "
                "doesn't fit the model given; give the base_model that it was trained on"
            )
        return replace(self, lora=replace(self.lora, parameters={name: mine[name] for name in sizes}))


def new_folder(run_dir: Path, kind: str, name: str) -> Path:
    """Where weights of that name go. Raises `BackendError` for what isn't a name."""
    if not _NAME.fullmatch(name):
        raise BackendError(
            f"{name!r} isn't a name for saved weights; give one without slashes, like 'step-10'"
        )
    return run_dir / kind / name


def path_of(folder: Path) -> str:
    return f"tinker://{folder.parent.parent.name}/{folder.parent.name}/{folder.name}"


def find(runs: Path, path: str) -> Path:
    """The folder of saved weights. Raises `ServiceError`, a `BackendError`, where there are none."""
    match = _PATH.fullmatch(path)
    folder = runs.joinpath(*match.groups()) if match else runs
    if not (folder / _LORA).is_file():
        raise ServiceError(
            f"no saved weights {path!r} under {runs}; the form is tinker://<run>/weights/<name>, or "
            "sampler_weights"
        )
    return folder


def save(folder: Path, state: State, *, overwrite: bool) -> None:
    """Raises `BackendError` where there is one already, unless `overwrite`; an OSError names the file."""
    if folder.exists() and not overwrite:
        raise BackendError(f"{folder} is already there; save under another name, or remove it")
    lora = state.lora
    facts = {
        "base_model": state.base_model,
        "rank": str(lora.rank),
        "alpha": str(lora.alpha),
        "trained": " ".join(state.trained),
        "user_metadata": json.dumps(state.user_metadata),
        "run_metadata": json.dumps(state.run_metadata),
    }
    weights = {name: parameter.detach() for name, parameter in lora.parameters.items()}
    contents = {_LORA: safetensors.torch.save(weights, facts)}
    if state.moments is not None:
        contents[_ADAM] = safetensors.torch.save(dict(state.moments))
    _write(folder, contents)


def read(runs: Path, path: str, *, optimizer: bool = False) -> State:
    """Raises `BackendError` where the path leads nowhere, or to what isn't a LoRA that was saved here."""
    folder = find(runs, path)
    if optimizer and not (folder / _ADAM).is_file():
        raise BackendError(f"{path} holds no optimizer state; save_state keeps one")
    try:
        weights, facts = _tensors(folder / _LORA)
        moments = _tensors(folder / _ADAM)[0] if optimizer else None
        lora = Lora(int(facts["rank"]), float(facts["alpha"]), weights)
        about = _about(facts)
    except (SafetensorError, KeyError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise BackendError(
            f"{folder}: not weights that were saved here ({type(e).__name__}: {reason})"
        ) from e
    return State(facts.get("base_model", ""), lora, moments, **about)


def folders(runs: Path) -> list[Path]:
    """All saved weights, in the order of their names."""
    found = [path for kind in KINDS for path in runs.glob(f"*/{kind}/*/{_LORA}")]
    return sorted(path.parent for path in found if not path.parent.name.startswith("."))


def facts(folder: Path) -> dict[str, Any]:
    """What is known of saved weights without reading them: base_model, rank, trained, user_metadata,
    run_metadata, time (when they were saved, seconds since the epoch) and size_bytes."""
    with safe_open(folder / _LORA, framework="pt") as opened:
        said = opened.metadata() or {}
    return {
        "base_model": said.get("base_model", ""),
        "rank": int(said["rank"]),
        "time": (folder / _LORA).stat().st_mtime,
        "size_bytes": sum(file.stat().st_size for file in folder.iterdir()),
        **_about(said),
    }


def _about(facts: Mapping[str, str]) -> dict[str, Any]:
    metadata = {name: json.loads(facts.get(name, "null")) for name in ("user_metadata", "run_metadata")}
    return {"trained": tuple(facts["trained"].split()) if "trained" in facts else tuple(PARTS), **metadata}


def delete(runs: Path, path: str) -> None:
    """Raises `BackendError` where there is nothing of that path."""
    match = _PATH.fullmatch(path)
    if match:
        _remove(_beside(runs.joinpath(*match.groups()), "part"))  # of a process that was killed
    folder = find(runs, path)
    part = _beside(folder, "part")
    files.rename(folder, part)  # at once: nobody finds half of it
    _remove(part)


def _tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as opened:
        # Copies: what is read may lie in the file's own pages.
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata() or {}


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    part, old = _beside(folder, "part"), _beside(folder, "old")
    try:
        _remove(part)  # of a process that was killed
        part.mkdir(parents=True)
        for name, data in contents.items():
            files.write(part / name, data)
        files.sync(part)
        if folder.exists():
            _remove(old)
            folder.rename(old)  # for the moment up to the next line there is neither
        files.rename(part, folder)
        files.sync(folder.parent.parent)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # the first failure is the one to hear of
            if not folder.exists():
                old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
