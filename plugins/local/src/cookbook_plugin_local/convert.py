"""A llama model in one GGUF file -> a folder in Hugging Face format, in fp32.

It reads what the embedded model is: architecture `llama` with the byte-level tokenizer `smollm`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cookbook.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor
    from tokenizers import Tokenizer

Progress = Callable[[int, int], None]
"""Called with the number of tensors done and the number there are."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(
    gguf: Path, folder: Path, source: Mapping[str, str], progress: Progress = lambda done, total: None
) -> None:
    """Write the model in the file `gguf` to `folder`, replacing what is there.

    `source` becomes source.json: where the file came from. All is written beside `folder` first and
    renamed when it is whole, so that an interruption leaves `folder` as it was. One call per folder at
    a time. Raises BackendError for a model of another kind, OSError when it can't be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        _write_model(gguf, partial, progress)
        _write_json(partial / "source.json", source)
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def llama_config(**fields: Any) -> dict[str, Any]:
    """config.json of a LlamaForCausalLM in fp32, `fields` added.

    They are hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
    num_key_value_heads, head_dim, vocab_size, max_position_embeddings, rms_norm_eps, rope_theta,
    tie_word_embeddings, bos_token_id, eos_token_id and pad_token_id.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        # transformers 5 reads rope_parameters and dtype, transformers 4 rope_theta and torch_dtype.
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["rope_theta"]},
        "dtype": "float32",
        "torch_dtype": "float32",
        **fields,
    }


def byte_level_tokenizer(
    tokens: Sequence[str], merges: Sequence[tuple[str, str]], control: Sequence[str], unknown: str
) -> Tokenizer:
    """The byte-level BPE of SmolLM2: digits stand alone, no space is added in front.

    An id is a place in `tokens`. `control` are those of them that are special tokens, `unknown` stands
    for a byte that has no token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    template: str,
) -> None:
    """Write a model to the existing `folder`: config.json, model.safetensors and the tokenizer's files.

    `template` is the chat template. The tokenizer's bos, eos and pad are those that `config` names.
    Raises OSError when the files can't be written.
    """
    _write_json(folder / "config.json", config)
    _write_weights(folder / "model.safetensors", weights)
    # safetensors lets the owner alone read what it writes; a cache may be for more.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    special = {
        f"{name}_token": tokenizer.id_to_token(config[f"{name}_token_id"]) for name in ("bos", "eos", "pad")
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "unk_token": tokenizer.model.unk_token,
        **special,
        "chat_template": template,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer_config)


def _write_model(gguf: Path, folder: Path, progress: Progress) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    for field, known in (("general.architecture", "llama"), ("tokenizer.ggml.pre", "smollm")):
        if (found := _field(reader, field)) != known:
            raise BackendError(
                f"{gguf} can't be converted: its {field} is {found!r}, and only {known!r} is read"
            )
    config = _config(reader)
    template = _field(reader, "tokenizer.chat_template")
    write_folder(folder, config, _weights(reader, config, progress), _tokenizer(reader), template)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    heads = _field(reader, "llama.attention.head_count")
    hidden = _field(reader, "llama.embedding_length")
    return llama_config(
        hidden_size=hidden,
        intermediate_size=_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_field(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_field(reader, "llama.attention.head_count_kv"),
        head_dim=hidden // heads,
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        max_position_embeddings=_field(reader, "llama.context_length"),
        # The file holds a float32: 9.999999747e-06 was 1e-05.
        rms_norm_eps=float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=_field(reader, "llama.rope.freq_base"),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
    )


def _weights(reader: GGUFReader, config: Mapping[str, Any], progress: Progress) -> dict[str, np.ndarray]:
    from gguf import dequantize

    rotary_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        name, kind = _hf_name(tensor)
        weight = dequantize(tensor.data, tensor.tensor_type)
        weights[name] = _to_rotate_half(weight, rotary_heads[kind]) if kind in rotary_heads else weight
        progress(done, len(reader.tensors))
    return weights


def _hf_name(tensor: ReaderTensor) -> tuple[str, str]:
    """Hugging Face's name of a GGUF tensor, and its kind: blk.3.attn_q.weight is an attn_q."""
    *block, kind, suffix = tensor.name.split(".")
    if kind not in _NAMES or suffix != "weight":
        raise BackendError(f"GGUF tensor {tensor.name!r} has no place in a llama: only its weights are read")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{_NAMES[kind]}.weight", kind


def _to_rotate_half(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * head_dim, hidden] of q or k in Hugging Face's order.

    llama.cpp rotates neighbours (2i, 2i + 1) of a head, Hugging Face i and i + head_dim / 2, so
    llama.cpp's converter interleaves the two halves (`LlamaModel.permute` in convert_hf_to_gguf.py);
    this takes them apart again. The result is contiguous.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    from gguf import TokenType

    tokens = _field(reader, "tokenizer.ggml.tokens")
    kinds = _field(reader, "tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    return byte_level_tokenizer(
        tokens, merges, control, tokens[_field(reader, "tokenizer.ggml.unknown_token_id")]
    )


def _write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is one of these, and no OSError
        raise OSError(f"{path}: {error}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; a full folder can't be renamed over, so an old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
