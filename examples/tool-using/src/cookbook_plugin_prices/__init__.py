"""Baskets and what they cost."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register(
        "basket", "cookbook_plugin_prices.basket:Basket", "What a basket costs; tools look up and calculate"
    )
