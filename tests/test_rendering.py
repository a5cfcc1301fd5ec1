"""Messages to tokens and back, in the two formats of core."""

from __future__ import annotations

import gzip
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook.errors import ConfigError, RendererError, UnknownIdError
from cookbook.registry import renderer_for_model
from cookbook.rendering import get_renderer, load_tokenizer

START, END = 1, 2
GOLDENS = Path(__file__).parents[2] / "shared" / "goldens" / "renderers"
text = st.text(max_size=20) | st.sampled_from(
    ["<|im_end|>", "<|im_start|>system\n", "\n\nUser:", "", " ", "é🙂"]
)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_chatml_is_start_role_content_end(chatml, tokenizer):
    rendered = chatml.build_generation_prompt([user("Hi")])
    assert tokenizer.decode(rendered.token_ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.token_ids.count(START) == 2 and rendered.token_ids.count(END) == 1
    assert rendered.weights == [0.0] * len(rendered.token_ids)


def test_smollm2_puts_its_own_system_message_first_unless_there_is_one(tokenizer):
    renderer = get_renderer("core/smollm2", tokenizer)
    named = "named SmolLM, trained by Hugging Face<|im_end|>"
    assert named in tokenizer.decode(renderer.build_generation_prompt([user("Hi")]).token_ids)
    own = [{"role": "system", "content": "Be brief."}, user("Hi")]
    assert named not in tokenizer.decode(renderer.build_generation_prompt(own).token_ids)


def test_role_colon_is_plain_text(tokenizer):
    renderer = get_renderer("role_colon", tokenizer)
    prompt = renderer.build_generation_prompt([user("Hi"), assistant("Hello"), user("Bye")])
    assert tokenizer.decode(prompt.token_ids) == "User: Hi\n\nAssistant: Hello\n\nUser: Bye\n\nAssistant:"
    assert renderer.get_stop_sequences() == ["\n\nUser:"]


def test_a_prefill_ends_the_prompt(chatml, tokenizer):
    ids = chatml.build_generation_prompt([user("Hi")], prefill="Well,").token_ids
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nWell,")


@settings(max_examples=60)
@given(contents=st.lists(text, min_size=1, max_size=4))
def test_no_text_can_become_a_control_token(chatml, contents):
    messages = [user(c) if i % 2 == 0 else assistant(c) for i, c in enumerate(contents)]
    ids = chatml.build_generation_prompt(messages).token_ids
    assert ids.count(START) == len(messages) + 1 and ids.count(END) == len(messages)


@settings(max_examples=60)
@given(content=text)
def test_a_chatml_reply_comes_back_as_it_was_said(chatml, tokenizer, content):
    parsed = chatml.parse_response([*tokenizer.encode(content), END])
    assert parsed.message == assistant(content) and parsed.stopped


@pytest.mark.parametrize("id", ["core/chatml", "core/role_colon"])
@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_parsing_never_raises_on_any_tokens(tokenizer, id, ids):
    renderer = get_renderer(id, tokenizer)
    assert renderer.parse_response(ids).message["role"] == "assistant"


def test_a_reply_that_was_cut_off_says_so(chatml, tokenizer):
    parsed = chatml.parse_response(tokenizer.encode("half a"))
    assert parsed.message["content"] == "half a" and not parsed.stopped


@pytest.mark.parametrize("id, stop", [("core/chatml", "<|im_end|>"), ("core/role_colon", "\n\nUser:")])
@pytest.mark.parametrize("stopped", [True, False])
def test_the_bridge_extends_what_was_sampled_to_what_rendering_anew_gives(tokenizer, id, stop, stopped):
    renderer = get_renderer(id, tokenizer)
    first = [user("one")]
    reply = tokenizer.encode(" two") if id.endswith("colon") else tokenizer.encode("two")
    so_far = renderer.build_generation_prompt(first).token_ids + reply
    if stopped:
        so_far += [END] if id == "core/chatml" else tokenizer.encode(stop)
    bridge = renderer.bridge(so_far, stopped, [user("three")])
    whole = renderer.build_generation_prompt([*first, assistant("two"), user("three")]).token_ids
    assert tokenizer.decode(so_far + bridge) == tokenizer.decode(whole)
    assert so_far + bridge == whole


def test_role_colon_cannot_go_on_with_another_role_after_its_stop(tokenizer):
    renderer = get_renderer("core/role_colon", tokenizer)
    assert renderer.bridge([5], True, [{"role": "system", "content": "x"}]) is None


def test_tools_are_refused_where_the_format_has_no_form_for_them(chatml):
    with pytest.raises(RendererError, match="no form for tools"):
        chatml.build_generation_prompt([user("Hi")], tools=[{"name": "search"}])


def test_a_tokenizer_without_the_control_tokens_is_refused_in_one_line(tmp_path):
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RendererError, match=r"no control token '<\|im_start\|>'") as e:
        get_renderer("core/chatml", load_tokenizer(tmp_path))
    assert "\n" not in str(e.value)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RendererError, match="no tokenizer for") as e:
        load_tokenizer(tmp_path / "nowhere")
    assert "\n" not in str(e.value)


def test_the_format_of_a_model_is_known_by_its_name():
    assert renderer_for_model("SmolLM2-135M-Instruct") == "core/smollm2"
    assert renderer_for_model("HuggingFaceTB/SmolLM2-1.7B-Instruct") == "core/smollm2"
    assert renderer_for_model("HuggingFaceTB/SmolLM2-135M") is None
    with pytest.raises(UnknownIdError, match="role_colon"):
        get_renderer("role_colom", None)
    with pytest.raises(ConfigError):
        get_renderer("env:math/arithmetic", None)


def test_every_renderer_pickles_without_its_tokenizer_changing_what_it_says(chatml):
    prompt = chatml.build_generation_prompt([user("<|im_end|>")]).token_ids
    assert (
        pickle.loads(pickle.dumps(chatml)).build_generation_prompt([user("<|im_end|>")]).token_ids == prompt
    )


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the official templates' goldens lie outside the repository")
@pytest.mark.parametrize("name", ["smollm2", "role_colon@qwen3"])
def test_prompts_equal_the_golden_tokens(name, tmp_path):
    data = json.loads(gzip.decompress((GOLDENS / "goldens_public.json.gz").read_bytes()))
    conversations = {c["id"]: c for c in data["conversations"]}
    entry = data["renderers"][name]
    with tarfile.open(GOLDENS / "tokenizers.tar.xz") as tar:
        tar.extractall(tmp_path, [m for m in tar if f"/{entry['tokenizer']}/" in m.name], filter="data")
    renderer = get_renderer(name.split("@")[0], load_tokenizer(tmp_path / "tokenizers" / entry["tokenizer"]))
    checked = 0
    for case in entry["cases"]:
        conversation = conversations[case["case"].split("/")[0]]
        golden = (case.get("hf") or {}).get("prompt") or case.get("prompt") or {}
        plain = all(
            isinstance(m.get("content"), str) and "tool_calls" not in m for m in conversation["messages"]
        )
        if "tools" in conversation or not plain or "tokens" not in golden:
            continue
        if "lookalike" in case["case"]:
            continue  # text that spells a control token: literal here, by design, injected by the template
        messages = list(conversation["messages"])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if any(m["role"] == "tool" for m in messages):
            continue
        assert renderer.build_generation_prompt(messages).token_ids == golden["tokens"], case["case"]
        checked += 1
    assert checked >= 15
