"""The chat formats of core: rows of the registry, a class each and its variants as options, and the models
that speak them."""

from __future__ import annotations

import re

from .hookspecs import Register, hookimpl


@hookimpl
def register_renderers(register: Register) -> None:
    chatml = "cookbook.rendering.chatml:ChatML"
    smol = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    register("role_colon", "cookbook.rendering.role_colon:RoleColon", "Plain text: User: ..., Assistant: ...")
    register("chatml", chatml, "ChatML with no system message of its own")
    with_tools = {"tools": True}
    register("chatml_tools", chatml, "ChatML, tools as Hermes and Qwen3 declare them", options=with_tools)
    register("hf", "cookbook.rendering.hf:HF", "Any model, through its own chat template")
    register("llama3", "cookbook.rendering.llama3:Llama3", "Llama 3 Instruct")
    qwen3 = "cookbook.rendering.qwen3:Qwen3"
    register("qwen3", qwen3, "Qwen3, reasoning")
    opened = {"thinking": "opened"}
    register("qwen3_thinking", qwen3, "Qwen3 Thinking 2507, whose prompt opens the reasoning", options=opened)
    register("qwen3_disable_thinking", qwen3, "Qwen3, told not to reason", options={"thinking": "off"})
    register(
        "qwen3_instruct", qwen3, "Qwen3 Instruct 2507, which doesn't reason", options={"thinking": "none"}
    )
    vision = {"thinking": "none", "vision": True}
    register("qwen3_vl", qwen3, "Qwen3-VL", options=vision)
    register("qwen3_vl_instruct", qwen3, "Qwen3-VL Instruct", options=vision)
    thinking = {"thinking": "opened", "vision": True}
    register("qwen3_vl_thinking", qwen3, "Qwen3-VL Thinking, as Qwen3 Thinking", options=thinking)
    _qwen3_5(register)
    _nemotron3(register)
    _kimi(register)
    _gpt_oss(register)
    deepseek = "cookbook.rendering.deepseek_v3:DeepSeekV3"
    register("deepseekv3", deepseek, "DeepSeek V3.1, not reasoning")
    register("deepseekv3_thinking", deepseek, "DeepSeek V3.1, reasoning", options={"thinking": True})
    smollm2 = {"default_system": smol, **with_tools}
    register("smollm2", chatml, "SmolLM2 Instruct, as its template; tools as chatml_tools", options=smollm2)


def _qwen3_5(register: Register) -> None:
    target = "cookbook.rendering.qwen3_5:Qwen35"
    off, keep = {"thinking": False}, {"preserve_thinking": True}
    register("qwen3_5", target, "Qwen3.5, reasoning")
    register("qwen3_5_disable_thinking", target, "Qwen3.5, told not to reason", options=off)
    new = {"version": "3.6"}
    register(
        "qwen3_5_preserve_thinking", target, "Qwen3.5, reasoning kept in history", options={**new, **keep}
    )
    register("qwen3_6", target, "Qwen3.6, reasoning", options=new)
    register("qwen3_6_disable_thinking", target, "Qwen3.6, told not to reason", options={**new, **off})
    register(
        "qwen3_6_preserve_thinking", target, "Qwen3.6, reasoning kept in history", options={**new, **keep}
    )
    new = {"version": "3.8", **keep}
    register("qwen3_8", target, "Qwen3.8, reasoning at its default effort, xhigh", options=new)
    for effort in ("xhigh", "medium", "low"):
        summary = f"Qwen3.8, reasoning effort {effort}"
        register(f"qwen3_8_{effort}_reasoning", target, summary, options={**new, "effort": effort})
    register("qwen3_8_disable_thinking", target, "Qwen3.8, told not to reason", options={**new, **off})


def _nemotron3(register: Register) -> None:
    target = "cookbook.rendering.nemotron3:Nemotron3"
    off, keep = {"thinking": False}, {"preserve_thinking": True}
    register("nemotron3", target, "Nemotron 3 Nano, reasoning")
    register("nemotron3_disable_thinking", target, "Nemotron 3, told not to reason", options=off)
    register("nemotron3_preserve_thinking", target, "Nemotron 3, reasoning kept in history", options=keep)
    low = {"size": "super", "effort": "low"}
    register("nemotron3_low_thinking", target, "Nemotron 3 Super, reasoning little", options=low)
    register("nemotron3_super", target, "Nemotron 3 Super, reasoning", options={"size": "super"})
    ultra = {"size": "ultra"}
    register("nemotron3_ultra", target, "Nemotron 3 Ultra, reasoning", options=ultra)
    register(
        "nemotron3_ultra_disable_thinking",
        target,
        "Nemotron 3 Ultra, told not to reason",
        options={**ultra, **off},
    )


def _kimi(register: Register) -> None:
    target = "cookbook.rendering.kimi:Kimi"
    on, off = {"version": "k25", "thinking": "on"}, {"version": "k25", "thinking": "off"}
    keep = {**on, "preserve_thinking": True}
    register("kimi_k2", target, "Kimi K2 Thinking")
    register("kimi_k25", target, "Kimi K2.5, reasoning", options=on)
    register("kimi_k25_disable_thinking", target, "Kimi K2.5, told not to reason", options=off)
    register("kimi_k26", target, "Kimi K2.6, reasoning", options=on)
    register("kimi_k26_disable_thinking", target, "Kimi K2.6, told not to reason", options=off)
    register("kimi_k26_preserve_thinking", target, "Kimi K2.6, reasoning kept in history", options=keep)


def _gpt_oss(register: Register) -> None:
    target = "cookbook.rendering.gpt_oss:GptOss"
    for effort in ("low", "medium", "high"):
        summary = f"gpt-oss, reasoning effort {effort}; current_date=YYYY-MM-DD, or today's"
        register(f"gpt_oss_{effort}_reasoning", target, summary, options={"effort": effort})
    bare = "gpt-oss without a system message, earlier analysis kept, as tinker-cookbook has it"
    register("gpt_oss_no_sysprompt", target, bare, options={"effort": None})


_SIZE = r"[\d.]+[bm](-a[\d.]+b)?"  # "8B", "30B-A3B"
_STORED = r"(-(fp8|bf16|fp16|nvfp4|int4|awq|gptq|gptq-int[48]|mxfp4|mlx|gguf|unsloth|bnb-4bit|hf))*"
# The first that matches a model's whole name, lower-case and without its owner, says its format. A base model
# has seen no chat format.
_FORMATS = [
    (re.compile(f"(?:{pattern}){_STORED}"), id)
    for pattern, id in [
        (rf"smollm2-{_SIZE}-instruct", "smollm2"),
        (rf"(meta-)?llama-3(\.\d)?-{_SIZE}-instruct", "llama3"),
        (rf"qwen3-vl-{_SIZE}-instruct", "qwen3_vl_instruct"),
        (rf"qwen3-vl-{_SIZE}-thinking", "qwen3_vl_thinking"),
        (rf"qwen3-vl-{_SIZE}", "qwen3_vl"),
        (rf"qwen3-{_SIZE}-instruct-2507", "qwen3_instruct"),
        (rf"qwen3-{_SIZE}-thinking-2507", "qwen3_thinking"),
        (rf"qwen3-{_SIZE}", "qwen3"),
        (r"qwen3\.5-(0\.8|2)b", "qwen3_5_disable_thinking"),  # which don't reason unless asked
        (rf"qwen3\.5-{_SIZE}", "qwen3_5"),
        (rf"qwen3\.6-{_SIZE}", "qwen3_6"),
        (rf"qwen3\.8-{_SIZE}", "qwen3_8"),
        (r"deepseek-v3\.1(-terminus)?", "deepseekv3"),
        (r"kimi-k2-thinking", "kimi_k2"),
        (r"kimi-k2\.5", "kimi_k25"),
        (r"kimi-k2\.6", "kimi_k26"),
        (rf"(nvidia-)?nemotron-3-nano-{_SIZE}", "nemotron3"),
        (rf"(nvidia-)?nemotron-3-super-{_SIZE}", "nemotron3_super"),
        (rf"(nvidia-)?nemotron-3-ultra-{_SIZE}", "nemotron3_ultra"),
        (r"gpt-oss-\d+b", "gpt_oss_medium_reasoning"),
        (rf"(smollm2|(meta-)?llama-3(\.\d)?)-{_SIZE}|deepseek-v3\.1-base", "role_colon"),
        (rf"(qwen3(\.\d)?|(nvidia-)?nemotron-3-\w+)-{_SIZE}-base", "role_colon"),
    ]
]


@hookimpl
def renderer_for_model(model: str) -> str | None:
    name = model.partition(":")[0].rstrip("/").rsplit("/", 1)[-1].lower()  # a tuned model's suffix aside
    return next((f"core/{id}" for pattern, id in _FORMATS if pattern.fullmatch(name)), None)
