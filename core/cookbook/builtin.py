"""Core's own rows, through the same hooks as everybody's."""

from __future__ import annotations

from .hookspecs import Register, hookimpl
from .renderer_rows import register_renderers, renderer_for_model

__all__ = ["register_backends", "register_recipes", "register_renderers", "renderer_for_model"]


@hookimpl
def register_recipes(register: Register) -> None:
    register("rl", "cookbook.rl:recipe", "Reinforcement learning on any environment: env=ID model=NAME")
    register("eval", "cookbook.evaluate:recipe", "Plays held-out tasks and trains nothing: env=ID model=NAME")
    register("sl", "cookbook.sl:recipe", "Supervised learning on any dataset: data=ID model=NAME")


@hookimpl
def register_backends(register: Register) -> None:
    register(
        "tinker",
        "cookbook.backends.tinker:TinkerBackend",
        "The Tinker service, or a server that speaks its API (backend.base_url=...)",
        needs=["TINKER_API_KEY"],
    )
