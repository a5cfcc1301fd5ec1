"""GGUF files as models: weights, rope and tokenizer of each family, and where they are kept."""

import inspect
import json
import os

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from cookbook.errors import BackendError
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.models import find_model, lasting_name, loadable_name, missing_files
from cookbook_plugin_local.shape import LlamaShape

FAMILIES = ["llama3", "linear", "qwen2", "qwen3"]

TEXTS = [
    "Hello world, it's 12345 o'clock; we'll see, they'RE here and I'D say SHE'S gone",
    "  two  spaces\t\ttabs\n\n\nlines\r\n \n  indented\n",
    "trailing space ",
    "\n",
    " ",
    "   \n   x",
    "1 22 333 4444 55555 3.14159 1,000,000 ½ ² ٣٤",
    "naïve café e\u0301t\u00e9 ﬁ \u212b 東京タワー 한국어 العربية हिन्दी",
    "🙂👩‍👩‍👧‍👦🇫🇷 \u200b\ufeff\x00\x07",
    "def f(x):\n    return x**2  # (a+b)[0]!=1\n",
    "<|im_start|>user\nHi<|im_end|>\n<tool_call>{}</tool_call>",
    "don\u2019t \u2019s 'tis 'S",
    "wvzyx zyxwv",
]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COOKBOOK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny_gguf(tmp_path, folder, write_gguf):
    return write_gguf(tmp_path / "tiny.gguf", folder)


def logits(folder, ids, causal):
    model = Llama(folder, torch.float32)
    factors = Lora.fresh(model.shape, 1, 1.0, seed=0).snapshot().factors(2, torch.float32)
    places = torch.arange(len(ids))
    hidden = model.hidden(ids, places, factors, causal)
    return model.logits(hidden)


def quantized_reference(folder, quantized):
    """transformers' model, its projections rounded as a GGUF file of that type rounds them."""
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    kind = gguf.GGMLQuantizationType[quantized]
    for name, parameter in hf.requires_grad_(False).named_parameters():
        if name.endswith("_proj.weight"):
            data = gguf.quantize(parameter.numpy(), kind)
            parameter.copy_(torch.from_numpy(gguf.dequantize(data, kind)))
    return hf.eval()


@pytest.mark.parametrize("quantized", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_gives_the_logits_that_transformers_has_of_the_same_weights(
    families, tmp_path, write_gguf, causal, family, quantized
):
    file = write_gguf(tmp_path / "model.gguf", families[family], kind=quantized)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 288, 150))
    wanted = quantized_reference(families[family], quantized)(ids[None]).logits[0]
    torch.testing.assert_close(logits(find_model(str(file)), ids, causal), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_gguf_becomes_loads_in_transformers_too(families, tmp_path, write_gguf, family):
    file = write_gguf(tmp_path / "model.gguf", families[family], kind="F32")
    ids = torch.arange(150) + 50
    wanted, got = (
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()(ids[None]).logits[0]
        for place in (families[family], find_model(str(file)))
    )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_keeps_the_shape_but_for_ends_that_it_does_not_name(families, tmp_path, write_gguf, family):
    file = write_gguf(tmp_path / "model.gguf", families[family], fields=[("tokenizer.ggml.eot_token_id", 0)])
    assert LlamaShape.of(find_model(str(file))) == LlamaShape.of(families[family])


def test_a_rope_that_is_not_llama_3s_is_refused(families, tmp_path, write_gguf):
    config = json.loads((families["llama3"] / "config.json").read_text())
    config["rope_parameters"]["original_max_position_embeddings"] = 4096
    for file in families["llama3"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError, match=r"its rope frequencies aren't those of Llama 3\.1"):
        find_model(str(write_gguf(tmp_path / "model.gguf", tmp_path)))


def trained(tokenizer):
    """With merges of its own, from all TEXTS but the last, and two tokens that aren't control tokens."""
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[:-1] * 3, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<tool_call>", "</tool_call>")])
    return tokenizer


def smollm():
    """As in tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct."""
    tokenizer = Tokenizer(models.BPE(unk_token=CONTROL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return trained(tokenizer)


def qwen2():
    return trained(Qwen2Tokenizer().backend_tokenizer)


def llama_bpe():
    """As in tokenizer.json of meta-llama/Meta-Llama-3-8B, with the pattern that transformers has of it, and
    with a token that no merges lead to."""
    pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    state = json.loads(trained(tokenizer).to_str())
    state["model"]["ignore_merges"] = True
    last = max(state["model"]["vocab"].values())
    for token in state["added_tokens"]:
        token["id"] += token["id"] > last  # room for one more
    assert "Ġzyxwv" not in state["model"]["vocab"]
    state["model"]["vocab"]["Ġzyxwv"] = last + 1
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CONTROL[1]} $A", special_tokens=[(CONTROL[1], 1)]
    )
    return tokenizer


@pytest.mark.parametrize(("pre", "make"), [("smollm", smollm), ("qwen2", qwen2), ("llama-bpe", llama_bpe)])
def test_a_tokenizer_from_a_gguf_encodes_and_decodes_as_the_one_that_it_was_made_from(
    families, tmp_path, write_gguf, pre, make
):
    wanted = make()
    for file in families["qwen2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    wanted.save(str(tmp_path / "tokenizer.json"))
    model = find_model(str(write_gguf(tmp_path / "model.gguf", tmp_path, pre=pre, merges=[])))
    got = Tokenizer.from_file(str(model / "tokenizer.json"))
    for text in TEXTS:
        for special in (False, True):  # llama-bpe begins a text with its bos
            ids = wanted.encode(text, add_special_tokens=special).ids
            assert got.encode(text, add_special_tokens=special).ids == ids, text
        for skip in (False, True):
            assert got.decode(ids, skip_special_tokens=skip) == wanted.decode(ids, skip_special_tokens=skip)
    assert len({tuple(got.encode(text).ids) for text in TEXTS}) == len(TEXTS)


def test_a_gguf_is_converted_once_and_found_by_its_file_or_its_folder(home, tiny_gguf, folder, capsys):
    model = find_model(str(tiny_gguf))
    assert model.parent == home / "gguf"
    assert not missing_files(model)
    assert "converting" in capsys.readouterr().err
    before = (model / "config.json").stat()
    assert find_model(str(tiny_gguf)) == find_model(str(tiny_gguf.parent)) == model
    assert capsys.readouterr().err == ""
    assert (model / "config.json").stat() == before
    assert json.loads((model / "source.json").read_text())["file"] == str(tiny_gguf)
    assert loadable_name(str(tiny_gguf)) == str(model)


def test_a_gguf_that_was_changed_is_converted_anew(tiny_gguf):
    model = find_model(str(tiny_gguf))
    os.utime(tiny_gguf, ns=(0, 0))
    again = find_model(str(tiny_gguf))
    assert again != model
    assert not missing_files(again)


def test_a_gguf_has_its_whole_path_as_a_lasting_name(tiny_gguf, monkeypatch):
    monkeypatch.chdir(tiny_gguf.parent)
    assert lasting_name("tiny.gguf") == str(tiny_gguf)


def refusal_of(model):
    with pytest.raises(BackendError) as error:
        find_model(str(model))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_of_several_ggufs_names_them(tiny_gguf):
    (tiny_gguf.parent / "other.gguf").write_bytes(b"")
    assert "several GGUF files (other.gguf, tiny.gguf)" in refusal_of(tiny_gguf.parent)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tokenizer.ggml.model", "llama", "its tokenizer.ggml.model is 'llama', and only 'gpt2' is read"),
        ("tokenizer.ggml.pre", "tekken", "'tekken', and only 'smollm' or 'llama-bpe' or 'qwen2' is read"),
        ("llama.rope.scaling.type", "yarn", "its rope is of kind 'yarn'"),
        ("split.count", 3, "it is one of 3 parts"),
    ],
)
def test_a_gguf_that_would_be_read_wrongly_is_refused(
    home, tmp_path, folder, write_gguf, field, value, reason
):
    file = write_gguf(tmp_path / "model.gguf", folder, fields=[(field, value)])
    assert reason in refusal_of(file)
    assert not [place for place in (home / "gguf").iterdir() if place.is_dir()]


def test_a_bias_that_a_family_has_not_is_refused(families, tmp_path, write_gguf):
    file = write_gguf(tmp_path / "model.gguf", families["qwen2"], architecture="llama")
    assert "its tensor 'blk.0.attn_k.bias' has no place in a plain llama" in refusal_of(file)


@pytest.mark.parametrize("kept", [0, 3, 100, 20000])
def test_a_gguf_that_was_cut_off_is_refused(tiny_gguf, kept):
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:kept])
    assert "isn't a whole GGUF file" in refusal_of(tiny_gguf)


def test_a_file_that_is_no_gguf_is_refused_with_the_forms(folder):
    assert "is a file, but no *.gguf: give" in refusal_of(folder / "config.json")


def test_a_cache_that_cannot_be_written_is_one_line(home, tiny_gguf):
    home.write_text("a file where the folder should be")
    assert "COOKBOOK_HOME" in refusal_of(tiny_gguf)
