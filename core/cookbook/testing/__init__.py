"""For plugin authors: the checks of `cookbook check` as functions, and what stands in for a model in a test.

The names below are imported when they are first used, so that an author's pytest loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Finding": "rules",
    "RULES": "rules",
    "Report": "rules",
    "ScriptedSampler": "scripted",
    "Tabular": "tabular",
    "TookTooLong": "limits",
    "byte_tokenizer": "tokens",
    "check": "checks",
    "check_backend": "backends",
    "check_dataset": "datasets",
    "check_env": "checks",
    "check_grader": "graders",
    "check_plugin": "static",
    "check_recipe": "recipes",
    "check_renderer": "renderers",
    "deadline": "limits",
    "learn": "tabular",
    "play": "scripted",
    "play_table": "scripted",
}
__all__ = [
    "RULES",
    "Finding",
    "Report",
    "ScriptedSampler",
    "Tabular",
    "TookTooLong",
    "byte_tokenizer",
    "check",
    "check_backend",
    "check_dataset",
    "check_env",
    "check_grader",
    "check_plugin",
    "check_recipe",
    "check_renderer",
    "deadline",
    "learn",
    "play",
    "play_table",
]

if TYPE_CHECKING:
    from .backends import check_backend
    from .checks import check, check_env
    from .datasets import check_dataset
    from .graders import check_grader
    from .limits import TookTooLong, deadline
    from .recipes import check_recipe
    from .renderers import check_renderer
    from .rules import RULES, Finding, Report
    from .scripted import ScriptedSampler, play, play_table
    from .static import check_plugin
    from .tabular import Tabular, learn
    from .tokens import byte_tokenizer


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(
            f"module 'cookbook.testing' has no attribute {name!r}; it has {', '.join(_WHERE)}"
        )
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
