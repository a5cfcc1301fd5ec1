"""What this package registers: names and import strings, nothing heavier."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register("last-word", "cookbook_plugin_xnamex.env:LastWord", "The last of a few words")


@hookimpl
def register_graders(register):
    register("exact", "cookbook_plugin_xnamex.grader:Exact", "The reply is the reference, and nothing more")


@hookimpl
def register_recipes(register):
    register("last-word", "cookbook_plugin_xnamex.recipes:last_word", "A model learns to answer in one word")
