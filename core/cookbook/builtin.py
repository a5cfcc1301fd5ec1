"""Core's own rows, through the same hooks as everybody's."""

from __future__ import annotations

from .hookspecs import Register, hookimpl


@hookimpl
def register_renderers(register: Register) -> None:
    chatml = "cookbook.rendering.chatml:ChatML"
    smol = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    register("role_colon", "cookbook.rendering.role_colon:RoleColon", "Plain text: User: ..., Assistant: ...")
    register("chatml", chatml, "ChatML with no system message of its own")
    register("smollm2", chatml, "SmolLM2 Instruct, as its template", options={"default_system": smol})


@hookimpl
def renderer_for_model(model: str) -> str | None:
    name = model.rstrip("/").rsplit("/", 1)[-1].lower()
    return "core/smollm2" if name.startswith("smollm2") and "instruct" in name else None


@hookimpl
def register_recipes(register: Register) -> None:
    register("rl", "cookbook.rl:recipe", "Reinforcement learning on any environment: env=ID model=NAME")
    register("sl", "cookbook.sl:recipe", "Supervised learning on any dataset: data=ID model=NAME")


@hookimpl
def register_backends(register: Register) -> None:
    register(
        "tinker",
        "cookbook.backends.tinker:TinkerBackend",
        "The Tinker service, or a server that speaks its API (backend.base_url=...)",
        needs=["TINKER_API_KEY"],
    )
