"""For plugin authors: the checks of `cookbook check` as functions, and what stands in for a model in a test.

The names below are imported when they are first used, so that an author's pytest loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Finding": "rules",
    "RULES": "rules",
    "Report": "rules",
    "ScriptedSampler": "scripted",
    "Tabular": "tabular",
    "byte_tokenizer": "tokens",
    "check_dataset": "datasets",
    "check_grader": "graders",
    "check_plugin": "static",
    "check_recipe": "recipes",
    "check_renderer": "renderers",
    "deadline": "limits",
    "play": "scripted",
    "play_table": "scripted",
    "check": "check",
    "check_env": "check",
    "check_plugin": "static",
    "deadline": "limits",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(
            f"module 'cookbook.testing' has no attribute {name!r}; it has {', '.join(_WHERE)}"
        )
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
