"""What this package registers: names and import strings, nothing heavier."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register(
        "whisper", "cookbook_plugin_xnamex.env:Whisper", "One player gives a hint, the other finds the word"
    )


@hookimpl
def register_recipes(register):
    register("whisper", "cookbook_plugin_xnamex.recipes:whisper", "A model learns to be understood by itself")
