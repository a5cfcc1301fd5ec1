"""The errors a user can meet. Each is one line: what, where, what would be right, the next command.

Every kind is also the standard-library class that fits, so that a caller who knows nothing of
this project can still catch it. The command line prints the line and exits with 2.
"""


class CookbookError(Exception):
    """Base of all errors that tell the user what to do; its text is one line."""


class ConfigError(CookbookError, ValueError):
    """A config value is missing, of the wrong type, or can't go with another."""


class UnknownIdError(CookbookError, LookupError):
    """No registered row, or no run, has this id."""


class PluginError(CookbookError, ImportError):
    """A plugin, or what one of its rows names, can't be imported or isn't what it says it is."""


class EnvError(CookbookError, ValueError):
    """An environment broke its contract, by a reward that isn't a number, say."""


class RendererError(CookbookError, ValueError):
    """A conversation has no form in this chat format."""


class BackendError(CookbookError, RuntimeError):
    """A backend can't be reached, lacks a key or a model, or doesn't offer what was asked."""


class RunExistsError(CookbookError, FileExistsError):
    """A run folder of this name is already there."""
