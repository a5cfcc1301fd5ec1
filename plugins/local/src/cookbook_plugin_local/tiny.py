"""A random Llama of 92 000 parameters that writes and loads at once: for tests, and to try the engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cookbook.testing.tokens import byte_level
from cookbook_plugin_local.convert import family_config, write_folder

if TYPE_CHECKING:
    import numpy as np

_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_llama(folder: Path, *, seed: int = 0, layers: int = 2, hidden: int = 64) -> Path:
    """Write a Llama with random weights to `folder` in Hugging Face format, and return `folder`.

    It has 4 query heads on 2 key heads. hidden: its width, a multiple of 8.

    Its tokenizer is that of `cookbook.testing.byte_tokenizer`; it speaks ChatML. The vocabulary is padded to
    a multiple of 32, so the model can sample a few ids that no text has.
    """
    tokenizer = byte_level()
    config = family_config(
        "llama",
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        vocab_size=-(-tokenizer.get_vocab_size() // 32) * 32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, config, _random_weights(config, seed), tokenizer, _TEMPLATE)
    return folder


def _random_weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Normal weights, fp32, in Hugging Face's names.

    A projection keeps the scale of what it reads (std 1/sqrt(inputs)). The embedding's std of
    1/sqrt(hidden) makes the logits, which it also computes, spread by about 1: far from uniform, and
    far from certain. Norms are 1.
    """
    import numpy as np

    random = np.random.default_rng(seed)

    def normal(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    ones = np.ones(hidden, np.float32)
    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden), "model.norm.weight": ones}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm": ones,
            "self_attn.q_proj": normal(queries, hidden),
            "self_attn.k_proj": normal(keys, hidden),
            "self_attn.v_proj": normal(keys, hidden),
            "self_attn.o_proj": normal(hidden, queries),
            "post_attention_layernorm": ones,
            "mlp.gate_proj": normal(inner, hidden),
            "mlp.up_proj": normal(inner, hidden),
            "mlp.down_proj": normal(hidden, inner),
        }
        weights |= {f"model.layers.{layer}.{name}.weight": weight for name, weight in block.items()}
    return weights
