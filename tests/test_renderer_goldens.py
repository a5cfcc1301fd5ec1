"""Every chat format against the official template, token for token.

The goldens of Qwen3, SmolLM2, gpt-oss and role_colon are in the repository (renderer_goldens.json.xz;
make_renderer_goldens.py made it); those of the other families, and the templates themselves, lie beside it.
"""

from __future__ import annotations

import functools
import gzip
import json
import lzma
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from make_renderer_goldens import entry

from cookbook.errors import RendererError
from cookbook.rendering import get_renderer, load_tokenizer

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "goldens" / "renderers"
beside = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the goldens of all families lie outside the repository"
)
OURS = json.loads(lzma.decompress((HERE / "renderer_goldens.json.xz").read_bytes()))
WRONG = {tuple(row[:3]) for row in json.loads((HERE / "renderer_goldens_known.json").read_text())}
IDS = {"qwen3_5@qwen3.6": "qwen3_6"}
DATE = "2025-08-05"


@functools.cache
def theirs():
    return json.loads(gzip.decompress((SHARED / "goldens_public.json.gz").read_bytes()))


@pytest.fixture(scope="session")
def all_tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    with tarfile.open(SHARED / "tokenizers.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return functools.lru_cache(maxsize=2)(lambda name: load_tokenizer(folder / "tokenizers" / name))


def made(name, tokenizer, **options):
    options |= {"current_date": DATE} if name.startswith("gpt_oss") else {}
    return get_renderer(IDS.get(name, name.partition("@")[0]), tokenizer, **options)


def asked(messages):
    return messages if messages[-1]["role"] != "assistant" else messages[:-1]


def with_tools(conversation):
    return bool(conversation.get("tools")) or any(
        m["role"] == "tool" or "tool_calls" in m for m in conversation["messages"]
    )


def differences(name, renderer, cases, conversations):
    """(case, what) of all that isn't equal, and how many were compared."""
    wrong, compared = [], 0
    for id, wanted in cases.items():
        conversation = conversations[id]
        if name.startswith("gpt_oss") and with_tools(conversation):
            continue  # where openai-harmony is canonical
        for what, ids in wanted.items():
            if (name, id, what) not in WRONG:
                compared += 1
                if not equal(renderer, conversation, what, ids):
                    wrong.append((id, what))
    return wrong, compared


def equal(renderer, conversation, what, ids):
    messages, tools = conversation["messages"], conversation.get("tools")
    if what == "prompt":
        return renderer.build_generation_prompt(asked(messages), tools=tools).token_ids == ids
    if messages[-1]["role"] != "assistant":
        return True
    got = renderer.build_supervised_example(
        messages, train_on_what="last_assistant_message", tools=tools
    ).token_ids
    newline = renderer.tokenizer.encode("\n")  # which templates write after the last stop
    return got == ids or got + newline == ids


@pytest.mark.parametrize("name", OURS["renderers"])
def test_a_format_equals_its_template_token_for_token(name, kept_tokenizer):
    entry = OURS["renderers"][name]
    renderer = made(name, kept_tokenizer(entry["tokenizer"]), hf_parity=True)
    wrong, compared = differences(name, renderer, entry["cases"], OURS["conversations"])
    assert wrong == [] and compared >= 49


@beside
@pytest.mark.parametrize("name", theirs()["renderers"] if SHARED.is_dir() else [])
def test_every_format_of_every_family_equals_its_template_token_for_token(name, all_tokenizers):
    renderer = made(name, all_tokenizers(theirs()["renderers"][name]["tokenizer"]), hf_parity=True)
    conversations = {c["id"]: c for c in theirs()["conversations"]}
    cases = entry(name, theirs()["renderers"][name])["cases"]
    wrong, compared = differences(name, renderer, cases, conversations)
    assert [each for each in wrong if not split_as_sampled(renderer, name, each, cases, conversations)] == []
    assert compared >= 49


def split_as_sampled(renderer, name, where, cases, conversations):
    """What may differ: the same text, "<think>" and the newline after it apart, as sampling gives them; the
    reasoning that a target is trained on, where the template drops it."""
    id, what = where
    if what == "prompt" or not name.startswith(("qwen3_5", "qwen3_8", "kimi", "deepseek")):
        return False
    messages, tools = conversations[id]["messages"], conversations[id].get("tools")
    got = renderer.build_supervised_example(
        messages, train_on_what="last_assistant_message", tools=tools
    ).token_ids
    text = renderer.tokenizer.decode
    return text(got).rstrip("\n") == text(cases[id][what]).rstrip("\n")


def test_gpt_oss_with_tools_equals_openai_harmony(kept_tokenizer):
    """The library keeps the analysis of an earlier turn while a call is under way, which its own
    documentation and the template tell to drop: that one conversation aside."""
    renderer = made("gpt_oss_medium_reasoning", kept_tokenizer("gpt_oss"))
    wrong = [
        id
        for id, wanted in OURS["harmony"].items()
        if not equal(renderer, OURS["conversations"][id], "prompt", wanted["prompt"])
    ]
    assert wrong == ["tool_think_then_user__a"] and len(OURS["harmony"]) == 12


WORDS = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\n\n",
        "hi",
        " lead",
        "trail ",
        "x\n",
        "\nx",
        "Zoë „q“ 🙂",
        "a\n\n\nb",
        "5 < 6 & 7",
        "\r\n",
        "é",
    ]
    + [
        "<|im_end|>",
        "<|im_start|>system\nEvil",
        "<think>",
        "</think>",
        "<think>\nsecret</think>\nvis",
        '{"a": 1}',
    ]
    + ["<tool_call>\n{}", "<tool_response>\nfoo\n</tool_response>", "<|eot_id|>", "<｜User｜>", "<|message|>"]
)
TEXT = st.lists(WORDS, min_size=1, max_size=3).map("".join)
ARGUMENTS = st.sampled_from(
    [
        '{"city": "Oslo"}',
        '{"a":1,"b":2.50}',
        "{}",
        '{"x": [1, {"y": null}], "z": true}',
        '{"q": "Zo\\u00eb\\n\\"k\\""}',
    ]
)
TOOLS = [
    {
        "name": "get_weather",
        "description": "Look “up” & tell",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City"}, "unit": {"enum": ["c", "f"]}},
            "required": ["city"],
        },
    }
]


@st.composite
def conversations(draw, tools):
    """With a system message or without, several turns, reasoning, calls and their results."""
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    calls = 0
    for _ in range(draw(st.integers(1, 3))):
        messages += [{"role": "user", "content": draw(TEXT)} for _ in range(draw(st.sampled_from([1, 1, 2])))]
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])) if tools else 0):
            count = draw(st.sampled_from([1, 1, 2]))
            ids = [f"functions.get_weather:{calls + n}" for n in range(count)]
            called = [
                {"id": id, "function": {"name": "get_weather", "arguments": draw(ARGUMENTS)}} for id in ids
            ]
            messages.append({**draw(replies()), "tool_calls": called})
            results = [
                {"role": "tool", "name": "get_weather", "tool_call_id": id, "content": draw(TEXT)}
                for id in ids
            ]
            messages += results
            calls += count
        messages.append(draw(replies()))
    return messages


def replies():
    text = st.builds(lambda text: {"role": "assistant", "content": text}, TEXT)
    reasoned = st.builds(lambda t, r: {"role": "assistant", "content": t, "reasoning_content": r}, TEXT, TEXT)
    return st.one_of(text, reasoned)


def template_of(entry):
    """As the model's own tokenizer calls it: Kimi's sorts the declarations and writes them without spaces."""
    template = (SHARED / "templates" / entry["hf_template"]).read_text()
    compact = "tools | tojson(separators=(',',':'), sort_keys=True)"
    return template.replace("tools | tojson()", compact).replace('strftime_now("%Y-%m-%d")', f'"{DATE}"')


@beside
@pytest.mark.parametrize(
    "name",
    [n for n, r in theirs()["renderers"].items() if r["hf_template"] and "no_sys" not in n]
    if SHARED.is_dir()
    else [],
)
def test_a_format_says_what_the_template_itself_says_of_any_conversation(name, all_tokenizers):
    entry = theirs()["renderers"][name]
    tokenizer = all_tokenizers(entry["tokenizer"])
    bos = tokenizer.decode(tokenizer.prefix_ids)
    given_options = {
        "template_options": {**entry["hf_kwargs"], "bos_token": bos},
        "chat_template": template_of(entry),
    }
    template = get_renderer("hf", tokenizer, hf_parity=True, **given_options)
    renderer = made(name, tokenizer, hf_parity=True)
    has_tools = not name.startswith(("llama3", "smollm2", "gpt_oss"))

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def check(data):
        tools = data.draw(st.sampled_from([None, TOOLS])) if has_tools else None
        messages = data.draw(conversations(has_tools))
        try:
            wanted = template.build_generation_prompt(messages, tools=tools).token_ids
        except RendererError:
            with pytest.raises(RendererError):
                renderer.build_generation_prompt(messages, tools=tools)
            return
        assert renderer.build_generation_prompt(messages, tools=tools).token_ids == wanted

    check()
