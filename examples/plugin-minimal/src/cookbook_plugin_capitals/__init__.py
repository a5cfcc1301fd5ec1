"""Words in capital letters."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register("words", "cookbook_plugin_capitals.envs:Words", "A word, to be written in capital letters")
