"""What this package registers: names and import strings, nothing heavier."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register("prices", "cookbook_plugin_xnamex.env:Prices", "What things cost, which only a tool knows")


@hookimpl
def register_graders(register):
    register("exact", "cookbook_plugin_xnamex.grader:Exact", "The reply is the reference, and nothing more")


@hookimpl
def register_recipes(register):
    register("prices", "cookbook_plugin_xnamex.recipes:prices", "A model learns to ask a tool")
