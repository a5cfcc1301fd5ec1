"""Post-training cookbook: a supervised and a reinforcement-learning loop, and plugins for the rest.

The names below are the public ones of environment and plugin authors; each is imported when it is
first used, so that `import cookbook` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "hookimpl": "hookspecs",
    "CookbookError": "errors",
    "Message": "types",
    "Start": "types",
    "Step": "types",
    "Env": "types",
    "Task": "types",
    "Question": "types",
    "Grade": "types",
    "Episode": "types",
    "Turn": "types",
    "EnvConfig": "kinds",
    "GraderConfig": "kinds",
    "DatasetConfig": "kinds",
    "BackendConfig": "kinds",
    "TrackerConfig": "kinds",
    "by_id": "configs",
    "preset": "configs",
}
__all__ = [
    "BackendConfig",
    "CookbookError",
    "DatasetConfig",
    "Env",
    "EnvConfig",
    "Episode",
    "Grade",
    "GraderConfig",
    "Message",
    "Question",
    "Start",
    "Step",
    "Task",
    "TrackerConfig",
    "Turn",
    "__version__",
    "by_id",
    "hookimpl",
    "preset",
]

if TYPE_CHECKING:
    from .configs import by_id, preset
    from .errors import CookbookError
    from .hookspecs import hookimpl
    from .kinds import BackendConfig, DatasetConfig, EnvConfig, GraderConfig, TrackerConfig
    from .types import Env, Episode, Grade, Message, Question, Start, Step, Task, Turn


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cookbook' has no attribute {name!r}; it has {', '.join(_WHERE)}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
