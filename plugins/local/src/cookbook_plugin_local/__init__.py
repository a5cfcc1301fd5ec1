"""The embedded engine: `backend=local/torch`, and `cookbook local setup`."""

import os

from cookbook import hookimpl


@hookimpl
def register_backends(register):
    # libgomp's threads spin at every barrier, by default for so long that any other process on the same
    # cores slows everything fifty times; this costs 6 % on a quiet machine. It is read when torch is
    # loaded, which `import tinker` does, so nothing later than this hook is early enough.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
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
