"""A Llama, Qwen2 or Qwen3 model in one GGUF file -> a folder in Hugging Face format, in fp32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cookbook.errors import BackendError

from .gguf_tokenizer import PRE_TOKENIZERS, gguf_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

Progress = Callable[[int, int], None]
"""Called with the number of tensors done and the number there are."""

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
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
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_ROPE_DIVISORS = "rope_freqs.weight"


def convert_gguf(
    gguf: Path, folder: Path, source: Mapping[str, Any], progress: Progress = lambda done, total: None
) -> None:
    """Write the model in the file `gguf` to `folder`, replacing what is there.

    `source` becomes source.json: where the file came from. An interruption leaves `folder` as it was.
    One call per folder at a time. Raises BackendError for a model of another kind, OSError when it
    can't be written.
    """
    with written_whole(folder) as partial:
        _write_model(_Gguf(gguf), partial, progress)
        write_json(partial / "source.json", source)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `folder` where all went well.

    It lies beside `folder`, so that an interruption leaves `folder` as it was. One at a time.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def alone(lock: Path, busy: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the file `lock` against other processes: two at once would write into each other's files.

    Where another has it, says so, with `busy` in front, and waits.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: there two at once are the user's to avoid
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{busy} in {lock.parent}: waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def family_config(family: str, **fields: Any) -> dict[str, Any]:
    """config.json of a llama, qwen2 or qwen3 in fp32, `fields` added.

    They are hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
    num_key_value_heads, head_dim, vocab_size, max_position_embeddings, rms_norm_eps, rope_theta,
    tie_word_embeddings, bos_token_id, eos_token_id and pad_token_id; and rope_scaling where the
    rotation is rescaled.
    """
    rope = fields.get("rope_scaling") or {"rope_type": "default"}
    return {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "hidden_act": "silu",
        **({"use_sliding_window": False} if family == "qwen2" else {"attention_bias": False}),
        **({"mlp_bias": False} if family == "llama" else {}),
        # transformers 5 reads rope_parameters and dtype, transformers 4 the other places.
        "rope_parameters": rope | {"rope_theta": fields["rope_theta"]},
        "dtype": "float32",
        "torch_dtype": "float32",
        **fields,
    }


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    template: str | None,
) -> None:
    """Write a model to the existing `folder`: config.json, model.safetensors and the tokenizer's files.

    `template` is the chat template. The tokenizer's bos, eos and pad are those that `config` names.
    Raises OSError when the files can't be written.
    """
    write_json(folder / "config.json", config)
    write_weights(folder / "model.safetensors", weights)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    named = {name: config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "unk_token": tokenizer.model.unk_token,
        **{f"{name}_token": tokenizer.id_to_token(i) for name, i in named.items() if i is not None},
        "chat_template": template,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    """A safetensors file as transformers wants it. Raises OSError when it can't be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is one of these, and no OSError
        raise OSError(f"{path}: {error}") from error
    path.chmod(mode)  # safetensors lets the owner alone read what it writes; a cache may be for more


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Gguf:
    """A GGUF file that is open for reading. Raises BackendError for what isn't one, or a part of one, and
    for an architecture or a tokenizer that isn't read here."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError) as e:  # whatever a file that is cut off leads to
            reason = " ".join(str(e).split())
            raise BackendError(f"{path} isn't a whole GGUF file ({type(e).__name__}: {reason})") from e
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.family: str = self._known("general.architecture", tuple(_CLASSES))
        self._known("tokenizer.ggml.model", ("gpt2",))
        self._known("tokenizer.ggml.pre", PRE_TOKENIZERS)
        if (parts := self.field("split.count") or 1) > 1:
            raise self.refusal(f"it is one of {parts} parts; merge them first (llama-gguf-split --merge)")

    def _known(self, name: str, known: tuple[str, ...]) -> Any:
        if (found := self.field(name)) not in known:
            read = " or ".join(map(repr, known))
            raise self.refusal(f"its {name} is {found!r}, and only {read} is read")
        return found

    def refusal(self, reason: str) -> BackendError:
        return BackendError(f"{self.path} can't be converted: {reason}")

    def field(self, name: str) -> Any:
        """None where there is none."""
        field = self._reader.get_field(name)
        return None if field is None else field.contents()

    def need(self, name: str) -> Any:
        """A field of the architecture. Raises BackendError where there is none."""
        if (found := self.field(f"{self.family}.{name}")) is None:
            raise self.refusal(f"it lacks {self.family}.{name}")
        return found

    def tokenizer_fields(self) -> dict[str, Any]:
        """`tokenizer.ggml.*`, without that prefix."""
        prefix = "tokenizer.ggml."
        return {
            name.removeprefix(prefix): self.field(name)
            for name in self._reader.fields
            if name.startswith(prefix)
        }

    def tensor(self, name: str) -> np.ndarray:
        """In fp32."""
        from gguf import dequantize

        tensor = self.tensors[name]
        try:
            return dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as e:
            raise self.refusal(f"the gguf package can't read {tensor.tensor_type.name} ({name})") from e


def _write_model(gguf: _Gguf, folder: Path, progress: Progress) -> None:
    tokenizer_fields = gguf.tokenizer_fields()
    try:
        tokenizer = gguf_tokenizer(tokenizer_fields)
    except KeyError as e:
        raise gguf.refusal(f"it lacks tokenizer.ggml.{e.args[0]}") from e
    config = _config(gguf, tokenizer_fields)
    # What else ends an answer, beside the one eos that config.json names.
    ends = [tokenizer_fields.get(f"{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = [place for place in dict.fromkeys(ends) if place is not None]
    if len(ends) > 1:
        write_json(folder / "generation_config.json", {"eos_token_id": ends})
    template = gguf.field("tokenizer.chat_template")
    write_folder(folder, config, _weights(gguf, config, progress), tokenizer, template)


def _config(gguf: _Gguf, tokenizer_fields: Mapping[str, Any]) -> dict[str, Any]:
    heads, hidden = gguf.need("attention.head_count"), gguf.need("embedding_length")
    head_dim = gguf.field(f"{gguf.family}.attention.key_length") or hidden // heads
    theta = gguf.field(f"{gguf.family}.rope.freq_base") or 10000.0
    scaling = _rope_scaling(gguf, theta, head_dim)
    return family_config(
        gguf.family,
        hidden_size=hidden,
        intermediate_size=gguf.need("feed_forward_length"),
        num_hidden_layers=gguf.need("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=gguf.field(f"{gguf.family}.attention.head_count_kv") or heads,
        head_dim=head_dim,
        vocab_size=len(tokenizer_fields["tokens"]),
        max_position_embeddings=gguf.need("context_length"),
        # The file holds a float32: 9.999999747e-06 was 1e-05.
        rms_norm_eps=float(f"{gguf.need('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=theta,
        tie_word_embeddings="output.weight" not in gguf.tensors,
        bos_token_id=tokenizer_fields.get("bos_token_id"),
        eos_token_id=tokenizer_fields.get("eos_token_id"),
        pad_token_id=tokenizer_fields.get("padding_token_id"),
        **({"rope_scaling": scaling} if scaling else {}),
    )


def _rope_scaling(gguf: _Gguf, theta: float, head_dim: int) -> dict[str, Any]:
    """As config.json has it; empty for a plain rope.

    Of Llama 3's scaling a GGUF file keeps only what divides each frequency. All published models agree
    but for the factor, the largest of these, so whether the rest is the same can be checked.
    """
    kind = gguf.field(f"{gguf.family}.rope.scaling.type") or "none"
    if kind == "linear":
        return {"rope_type": kind, "factor": gguf.need("rope.scaling.factor")}
    if kind != "none":
        raise gguf.refusal(f"its rope is of kind {kind!r}, and only plain, linear and Llama 3's are read")
    if _ROPE_DIVISORS not in gguf.tensors:
        return {}
    import numpy as np

    from .shape import Rope

    divisors = gguf.tensor(_ROPE_DIVISORS)
    scaling = {
        "rope_type": "llama3",
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    scaled = Rope.of({"rope_theta": theta, "rope_scaling": scaling}).frequencies(head_dim)
    wanted = Rope(theta).frequencies(head_dim) / scaled
    if divisors.shape != wanted.shape or not np.allclose(divisors, wanted.numpy(), rtol=1e-4):
        raise gguf.refusal("its rope frequencies aren't those of Llama 3.1 or later")
    return scaling


def _weights(gguf: _Gguf, config: Mapping[str, Any], progress: Progress) -> dict[str, np.ndarray]:
    # Only the converter of llama rotates neighbours; qwen's leaves q and k as they are.
    rotary_heads = (
        {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        if gguf.family == "llama"
        else {}
    )
    weights = {}
    for done, name in enumerate(gguf.tensors, start=1):
        if name != _ROPE_DIVISORS:
            hf_name, kind = _hf_name(gguf, name)
            weight = gguf.tensor(name)
            heads = rotary_heads.get(kind)
            weights[hf_name] = _to_rotate_half(weight, heads) if heads else weight
        progress(done, len(gguf.tensors))
    return weights


def _hf_name(gguf: _Gguf, name: str) -> tuple[str, str]:
    """Hugging Face's name of a GGUF tensor, and its kind: blk.3.attn_q.weight is an attn_q."""
    *block, kind, suffix = name.split(".")
    names = _NAMES | _QK_NORMS if gguf.family == "qwen3" else _NAMES
    biased = gguf.family == "qwen2" and kind in ("attn_q", "attn_k", "attn_v")
    if kind not in names or not (suffix == "weight" or (suffix == "bias" and biased)):
        raise gguf.refusal(f"its tensor {name!r} has no place in a plain {gguf.family}")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{names[kind]}.{suffix}", kind


def _to_rotate_half(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * head_dim, hidden] of q or k in Hugging Face's order.

    llama.cpp rotates neighbours (2i, 2i + 1) of a head, Hugging Face i and i + head_dim / 2, so
    llama.cpp's converter interleaves the two halves (`LlamaModel.permute` in convert_hf_to_gguf.py);
    this takes them apart again. The result is contiguous.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; a full folder can't be renamed over, so an old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
