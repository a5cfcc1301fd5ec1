"""What a run's record says of where it came from."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from . import __version__, registry
from .configs import Settled
from .registry import Row

_VERSIONS = ("tinker", "chz", "tokenizers", "numpy")


def provenance(row: Row, argv: Sequence[str], settled: Settled) -> dict[str, Any]:
    """Recipe, command line, whole config, who is behind each id, versions, git revision and dirtiness."""
    chosen = sorted({(kind, id) for kind, id in settled.ids.values() if "/" in id})
    rows = [row, *(registry.find(kind, id) for kind, id in chosen)]
    return {
        "recipe": row.id,
        "argv": list(argv),
        "config": settled.values(),
        "plugins": {f"{r.kind}:{r.id}": f"{r.dist} {r.version}" for r in rows},
        "versions": {
            "cookbook-core": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONS},
        },
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """The revision of the current folder, and whether files differ from it; None outside a repository."""
    try:
        revision = _ask("rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit
        return None


def _ask(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
