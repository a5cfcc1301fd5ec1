"""What a run's record says of where it came from."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
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


def drift(row: Row, settled: Settled, record: Mapping[str, Any]) -> list[str]:
    """What of the record of an earlier run isn't so any more, a line each: plugins, versions, revision."""
    now = provenance(row, (), settled)
    lines = []
    for part in ("plugins", "versions"):
        was, is_now = record.get(part, {}), now[part]
        for name in sorted(was.keys() & is_now.keys()):
            if was[name] != is_now[name]:
                lines.append(f"{name} went from {was[name]} to {is_now[name]}")
    if record.get("git") != now["git"]:
        lines.append(f"the code went from {_revision(record.get('git'))} to {_revision(now['git'])}")
    return lines


def _revision(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "no revision"
    return git["revision"][:12] + (" with changes" if git["dirty"] else "")


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
