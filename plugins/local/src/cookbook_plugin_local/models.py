"""Where a model lies: the embedded one, a local folder, or one from the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path

from cookbook.errors import BackendError

EMBEDDED = "SmolLM2-135M-Instruct"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FORMS = (
    f"give {EMBEDDED!r} (the embedded model), a folder that holds config.json, tokenizer.json "
    "and *.safetensors, or a Hugging Face id like 'org/name'"
)


def cache_dir() -> Path:
    """The folder for what this machine keeps; it need not exist yet. Models lie in its `models/`.

    It is $COOKBOOK_HOME, else $XDG_CACHE_HOME/cookbook, else ~/.cache/cookbook.
    """
    if home := os.environ.get("COOKBOOK_HOME"):
        return Path(home).expanduser()
    # An empty variable counts as unset, as the XDG specification wants it.
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cookbook"


def embedded_folder() -> Path:
    """Where the embedded model lies, or would."""
    return cache_dir() / "models" / EMBEDDED


def missing_files(folder: Path) -> list[str]:
    """What `folder` lacks of the Hugging Face format; empty when it is whole."""
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    return missing


def find_model(model: str) -> Path:
    """The folder of `model` in Hugging Face format: config.json, tokenizer.json, *.safetensors.

    `model` is the name of the embedded model (which wins over a folder of that name), a local folder,
    or a hub id `org/name`, which is downloaded unless the hub's own cache has it. Raises BackendError,
    one line, when that gives no whole model.
    """
    if model == EMBEDDED:
        return _embedded()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _whole(folder, model)
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "~")):
        return _whole(_from_hub(model), model)
    raise BackendError(f"model {model!r} is neither a folder here nor a name this backend knows: {_FORMS}")


def lasting_name(model: str) -> str:
    """`model` as other processes can find it: a local folder by its whole path."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != EMBEDDED and folder.is_dir() else model


def context_length(model: str) -> int:
    """The most tokens that the model takes, prompt and answer together. Raises as `find_model` does."""
    config = json.loads((find_model(model) / "config.json").read_text(encoding="utf-8"))
    if "max_position_embeddings" not in config:
        raise BackendError(f"model {model!r}: its config.json lacks max_position_embeddings")
    return config["max_position_embeddings"]


def _embedded() -> Path:
    folder = embedded_folder()
    if missing_files(folder):
        raise BackendError(
            f"model {EMBEDDED!r} is not on this machine yet: run `cookbook local setup` "
            f"(downloads 93 MB, keeps 540 MB in {folder})"
        )
    return folder


def _whole(folder: Path, model: str) -> Path:
    if missing := missing_files(folder):
        raise BackendError(f"model {model!r}: {folder} holds no {', no '.join(missing)}: {_FORMS}")
    return folder


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Only the top folder: some repositories keep the same weights again, in other formats, below it.
        found = snapshot_download(model, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*/*"])
    except Exception as error:  # the hub's client raises its own, httpx's and the system's kinds
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise BackendError(
            f"model {model!r}: no such folder here, and the Hugging Face hub gave no such model "
            f"({type(error).__name__}: {reason}): {_FORMS}; a private or gated one needs HF_TOKEN"
        ) from error
    return Path(found)
