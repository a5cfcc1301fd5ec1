"""What this package registers: names and import strings, nothing heavier."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register("recite", "cookbook_plugin_xnamex.env:Reciting", "Words to be said in order, one in each reply")


@hookimpl
def register_recipes(register):
    register("recite", "cookbook_plugin_xnamex.recipes:recite", "A model learns to say one word at a time")
