"""The embedded engine: `backend=local/torch`, and `cookbook local setup`."""

from cookbook import hookimpl


@hookimpl
def register_backends(register):
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
