"""Where a model lies: the embedded one, a local folder or GGUF file, or one from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import textwrap
from pathlib import Path

from cookbook.errors import BackendError

EMBEDDED = "SmolLM2-135M-Instruct"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)")
_FORMS = (
    f"give {EMBEDDED!r} (the embedded model), a folder that holds config.json, tokenizer.json "
    "and *.safetensors, a GGUF file, or a Hugging Face id like 'org/name' or 'org/name/file.gguf'"
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

    `model` is the name of the embedded model (which wins over a folder of that name), a local folder, a
    GGUF file or a folder with one, or a hub id `org/name` or `org/name/file.gguf`, which is downloaded
    unless the hub's own cache has it. A GGUF file is converted when it is first asked for, and found in
    `cache_dir()` from then on. Raises BackendError, one line, when that gives no whole model.
    """
    if model == EMBEDDED:
        return _embedded()
    place = Path(model).expanduser()
    if place.is_file():
        return _converted(place, model)
    if place.is_dir():
        return _in_folder(place, model)
    if not model.startswith((".", "~")):
        if _HUB_ID.fullmatch(model):
            return _whole(_from_hub(model), model)
        if file := _HUB_FILE.fullmatch(model):
            return _converted(_from_hub(*file.groups()), model)
    raise BackendError(f"model {model!r} is neither a folder here nor a name this backend knows: {_FORMS}")


def lasting_name(model: str) -> str:
    """`model` as other processes can find it: a local folder or file by its whole path."""
    place = Path(model).expanduser()
    return str(place.resolve()) if model != EMBEDDED and place.exists() else model


def loadable_name(model: str) -> str:
    """`model` as transformers and PEFT can load it: a hub id as it is, else the folder in their format.

    Raises as `find_model` does.
    """
    on_hub = _HUB_ID.fullmatch(model) and model != EMBEDDED and not Path(model).expanduser().exists()
    return model if on_hub else str(find_model(model).resolve())


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


def _in_folder(folder: Path, model: str) -> Path:
    """The folder itself, or what its one GGUF file gives."""
    ggufs = sorted(folder.glob("*.gguf"))
    if not missing_files(folder) or not ggufs:
        return _whole(folder, model)
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs)
        raise BackendError(f"model {model!r} holds several GGUF files ({names}): give one by its path")
    return _converted(ggufs[0], model)


def _converted(gguf: Path, model: str) -> Path:
    """The folder in the cache that a GGUF file was converted to, now or before."""
    from .convert import alone, convert_gguf

    if gguf.suffix != ".gguf":
        raise BackendError(f"model {model!r} is a file, but no *.gguf: {_FORMS}")
    file = gguf.resolve().stat()
    # A file that was changed is another model; to hash all of a large one would take seconds each time.
    facts = {"file": str(gguf.resolve()), "bytes": file.st_size, "mtime_ns": file.st_mtime_ns}
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    folder = cache_dir() / "gguf" / f"{gguf.stem}-{key}"
    try:
        if missing_files(folder):
            with alone(folder.parent / "convert.lock", "Another conversion is at work", _say):
                if missing_files(folder):  # the other one may have been of this file
                    _say(f"converting {gguf} to fp32 safetensors, once, in {folder}")
                    convert_gguf(gguf, folder, facts)
    except OSError as error:
        raise BackendError(
            f"model {model!r}: converting it stopped: {error.strerror or error} "
            f"({error.filename or folder}): it needs 4 bytes a parameter: make room, or set COOKBOOK_HOME to "
            "another folder"
        ) from error
    return folder


def _from_hub(repository: str, file: str | None = None) -> Path:
    """The folder of a repository's model, or one file of it."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if file:
            return Path(hf_hub_download(repository, file))
        # Only the top folder: some repositories keep the same weights again, in other formats, below it.
        patterns = ["*.json", "*.jinja", "*.safetensors"]
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's kinds
        model = f"{repository}/{file}" if file else repository
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise BackendError(
            f"model {model!r}: no such folder here, and the Hugging Face hub gave no such model "
            f"({type(error).__name__}: {reason}): {_FORMS}; a private or gated one needs HF_TOKEN"
        ) from error


def _say(line: str) -> None:
    sys.stderr.write(f"cookbook: {line}\n")
