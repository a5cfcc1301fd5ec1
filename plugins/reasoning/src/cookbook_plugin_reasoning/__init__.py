"""Reasoning problems that are generated, and checked by a program."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register(
        "gym",
        "cookbook_plugin_reasoning.gym:Gym",
        "104 families of generated problems (reasoning-gym): dataset=chain_sum, or several",
    )


@hookimpl
def register_recipes(register):
    register(
        "gym",
        "cookbook_plugin_reasoning.recipes:gym",
        "GRPO on a family of generated problems; --local: a small model on sums of two digits",
    )
