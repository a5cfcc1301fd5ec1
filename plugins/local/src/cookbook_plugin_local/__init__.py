"""The embedded engine: `backend=local/torch`, and `cookbook local setup`.

`ServiceClient` and `RestClient` take the place of tinker's.
"""

import os
from typing import TYPE_CHECKING, Any

from cookbook import hookimpl

if TYPE_CHECKING:
    from .client import ServiceClient
    from .rest import RestClient

__all__ = ["RestClient", "ServiceClient"]


def __getattr__(name: str) -> Any:
    # Not at the import: `cookbook list` imports this package, and has no use for torch.
    spin_less()  # in time only where a program imports this before tinker and torch
    if name == "ServiceClient":
        from .client import ServiceClient

        return ServiceClient
    if name == "RestClient":
        from .rest import RestClient

        return RestClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def spin_less() -> None:
    """libgomp's threads spin at every barrier, by default for so long that any other process on the same
    cores slows everything fifty times; this costs 6 % on a quiet machine. It is read when torch is loaded,
    which `import tinker` does."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@hookimpl
def register_backends(register):
    spin_less()  # nothing later than this hook is early enough
    register(
        "torch", "cookbook_plugin_local.backend:TorchBackend", "This machine, in this process, without a key"
    )


@hookimpl
def register_commands(register):
    register(
        "setup",
        "cookbook_plugin_local.setup_command:main",
        "Bring the embedded model (93 MB) and convert it once",
    )
    register(
        "export",
        "cookbook_plugin_local.export_command:main",
        "Write a run's weights as a PEFT adapter, or merged into the model",
    )
