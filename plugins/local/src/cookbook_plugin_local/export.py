"""Saved weights in the forms that other programs load: a PEFT adapter, or the model with it merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .convert import write_json, write_weights, written_whole
from .llama import Lora
from .models import find_model, loadable_name
from .shape import LlamaShape
from .states import State

_PROJECTIONS = {
    **{module: f"self_attn.{module}_proj" for module in ("q", "k", "v", "o")},
    **{module: f"mlp.{module}_proj" for module in ("gate", "up", "down")},
}
# What stands beside the weights in a folder of the Hugging Face format.
_BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "model.safetensors.index.json",
)


def export_peft(state: State, folder: Path) -> str:
    """Write adapter_config.json and adapter_model.safetensors to `folder`, in place of what is there.

    `PeftModel.from_pretrained(model, folder)` loads them (PEFT 0.21). Returns the base model's name as
    transformers loads it. Raises BackendError where the base model isn't here or doesn't fit, OSError
    when it can't be written; then, and after an interruption, `folder` is as it was.
    """
    base = loadable_name(state.base_model)
    lora = state.fitting(LlamaShape.of(find_model(state.base_model))).lora
    weights = {_peft_name(name): p.detach().numpy() for name, p in lora.parameters.items()}
    with written_whole(folder) as partial:
        write_json(partial / "adapter_config.json", _peft_config(lora, base))
        write_weights(partial / "adapter_model.safetensors", weights)
    return base


def export_merged(state: State, folder: Path) -> None:
    """Write the model with its adapter merged, W + alpha / rank B A, computed and kept in fp32, to `folder`,
    in place of what is there: config.json, the tokenizer's files, and the weights in files named as the
    base model's.

    Raises BackendError where the base model isn't here or doesn't fit, OSError when it can't be written;
    then, and after an interruption, `folder` is as it was.
    """
    base = find_model(state.base_model)
    lora = state.fitting(LlamaShape.of(base)).lora
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    with written_whole(folder) as partial:
        write_json(partial / "config.json", config | {"dtype": "float32", "torch_dtype": "float32"})
        for name in _BESIDE:
            if (base / name).is_file():
                shutil.copyfile(base / name, partial / name)
        for file in sorted(base.glob("*.safetensors")):  # one after another: a large model has several
            _write_merged(file, partial / file.name, lora)


def _write_merged(source: Path, target: Path, lora: Lora) -> None:
    with safe_open(source, framework="pt") as opened:
        weights = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    for key in sorted({name.rsplit(".", 1)[0] for name in lora.parameters}):
        layer, module = key.split(".")
        name = f"model.layers.{layer}.{_PROJECTIONS[module]}.weight"
        if name in weights:
            update = lora.parameters[f"{key}.B"].detach() @ lora.parameters[f"{key}.A"].detach()
            weights[name] = torch.add(weights[name], update, alpha=lora.alpha / lora.rank)
    write_weights(target, {name: weight.numpy() for name, weight in weights.items()})


def _peft_name(name: str) -> str:
    """3.q.A as PEFT calls it."""
    layer, module, factor = name.split(".")
    return f"base_model.model.model.layers.{layer}.{_PROJECTIONS[module]}.lora_{factor}.weight"


def _peft_config(lora: Lora, base: str) -> dict[str, Any]:
    modules = dict.fromkeys(name.split(".")[1] for name in lora.parameters)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "target_modules": [_PROJECTIONS[module].split(".")[1] for module in modules],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
