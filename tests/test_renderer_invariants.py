"""What holds for every chat format and every conversation, by generated ones: with tools, reasoning, texts
that look like control tokens, white space and scripts of all kinds.

What a format can't hold it declares, `Renderer.exceptions`, and is held to: renderer_exceptions.py says to
which replies each applies. RENDERER_EXAMPLES: how many conversations a test draws.
"""

from __future__ import annotations

import copy
import functools
import io
import itertools
import json
import lzma
import os
import pickle
import sys
import tarfile
from pathlib import Path
from typing import get_args

import pytest
import tokenizers as tokenizers_library
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from renderer_conversations import LOOKALIKES, TEXT, TOOLS, conversations
from renderer_exceptions import APPLIES, EVERYWHERE, excepted, heard, normal, spelt, trimmed

from cookbook import renderer_rows
from cookbook.errors import RendererError
from cookbook.rendering import get_renderer, load_tokenizer
from cookbook.rendering.base import TrainOnWhat

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "goldens" / "renderers"
EXAMPLES = int(os.environ.get("RENDERER_EXAMPLES", "3"))
IDS: list[str] = []
renderer_rows.register_renderers(lambda id, *_, **__: IDS.append(id))
HF = {"hf@qwen3": "qwen3.jinja", "hf@smollm2": "smollm2-135m-instruct.jinja"}
FORMATS = [*[id for id in IDS if id != "hf"], "role_colon@llama3", *HF]
TOKENIZERS = {  # by the longest prefix; "*": in the repository
    "qwen3_5": "qwen3_5",
    "qwen3_6": "qwen3_5",
    "qwen3_8": "qwen3_5",
    "qwen3": "qwen3*",
    "role_colon": "qwen3*",
    "chatml": "smollm2*",
    "smollm2": "smollm2*",
    "gpt_oss": "gpt_oss*",
    "llama3": "llama3",
    "deepseekv3": "deepseek_v3_1",
    "kimi_k2": "kimi_k2",
    "kimi_k25": "kimi_k2_5",
    "kimi_k26": "kimi_k2_5",
    "nemotron3": "nemotron3",
}
WITHOUT_TOOLS = ("role_colon", "llama3", "hf@smollm2")
TRAIN = get_args(TrainOnWhat)  # the first five nest


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    kept = json.loads(lzma.decompress((HERE / "renderer_goldens.json.xz").read_bytes()))["tokenizers"]
    for name, tokenizer in kept.items():
        (folder / f"{name}*").mkdir()
        (folder / f"{name}*" / "tokenizer.json").write_text(json.dumps(tokenizer))
    if (SHARED / "tokenizers.tar.xz").is_file():
        with tarfile.open(SHARED / "tokenizers.tar.xz") as tar:
            tar.extractall(folder, filter="data")

    @functools.lru_cache(maxsize=2)
    def load(name):
        if name.endswith("*"):
            return load_tokenizer(folder / name)
        if not (folder / "tokenizers").is_dir():
            pytest.skip(f"the tokenizer of {name} lies outside the repository")
        return load_tokenizer(folder / "tokenizers" / name)

    return load


@pytest.fixture(scope="session", params=FORMATS)
def renderer(request, tokenizers):
    id, _, other = request.param.partition("@")
    options = {"current_date": "2025-08-05"} if id.startswith("gpt_oss") else {}
    if id == "hf":
        if not (SHARED / "templates").is_dir():
            pytest.skip("the chat templates lie outside the repository")
        options = {"chat_template": str(SHARED / "templates" / HF[request.param])}
        other += "*"
    name = other or TOKENIZERS[max([p for p in TOKENIZERS if id.startswith(p)], key=len)]
    made = get_renderer(id, tokenizers(name), **options)
    made.has_tools = request.param != "chatml" and not request.param.startswith(WITHOUT_TOOLS)
    return made


def holds(function):
    """A property over what the strategy `data` draws."""

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test(renderer, data):
        function(renderer, data)

    test.__name__, test.inner = function.__name__, function
    return test


def drawn(renderer, data):
    """A conversation that this format has a form for, and what tools are declared."""
    messages = data.draw(conversations(renderer.has_tools))
    said = [text for m in messages for text in (m["content"], m.get("reasoning_content", ""))]
    assume(all(spelt(renderer.tokenizer, text) == normal(renderer.tokenizer, text) for text in said))
    assume(
        renderer.id != "core/role_colon" or not any("\n\nUser:" in f" {m['content']}\n\nU" for m in messages)
    )
    return messages, TOOLS if renderer.has_tools else None


def trained(renderer, messages, tools, what="last_assistant_message"):
    """`build_supervised_example`, where the format can train the conversation as one."""
    try:
        return renderer.build_supervised_example(messages, train_on_what=what, tools=tools)
    except RendererError as e:
        assume("edits history" not in renderer.exceptions or "can't be trained within" not in str(e))
        raise


def targets(messages):
    """The conversations that end with one of its replies."""
    return [messages[: i + 1] for i, message in enumerate(messages) if message["role"] == "assistant"]


def said(renderer, messages, tools):
    """Tokens before what a model says in the last message, and those that it says."""
    example = trained(renderer, messages, tools)
    start = example.weights.index(1.0)
    return example.token_ids[:start], example.token_ids[start:]


@holds
def test_a_trained_reply_stands_after_the_prompt_to_it_and_ends_with_a_stop(renderer, data):
    messages, tools = drawn(renderer, data)
    prompt = renderer.build_generation_prompt(messages[:-1], tools=tools)
    example = trained(renderer, messages, tools)
    assert prompt.weights == [0.0] * len(prompt.token_ids)
    at = len(prompt.token_ids)
    follows = example.token_ids[:at] == prompt.token_ids
    inline = excepted(renderer, messages, "inline reasoning")
    assert inline or follows != excepted(renderer, messages, "reasoning", "no reasoning")
    if not follows or excepted(renderer, messages, "several calls"):
        return
    assert example.weights == [0.0] * at + [1.0] * (len(example.token_ids) - at)
    assert len(example.token_ids) > at
    if renderer.id != "core/role_colon":
        assert example.token_ids[-1] in renderer.get_stop_sequences()


@holds
def test_a_reply_is_parsed_as_it_was_said_and_renders_to_the_same_tokens(renderer, data):
    messages, tools = drawn(renderer, data)
    assume(
        not excepted(
            renderer, messages, "several calls", "tags in arguments", "tags in text", "undeclared types"
        )
    )
    prompt, reply = said(renderer, messages, tools)
    parsed = renderer.parse_response(reply, prompt_ids=prompt, tools=tools)
    assert parsed.termination == "clean", parsed
    again = [*messages[:-1], parsed.message]
    if not excepted(renderer, messages, "trimmed when read", "inline reasoning"):
        assert said(renderer, again, tools) == (prompt, reply)
    if not excepted(renderer, messages, "inline reasoning"):
        assert heard(renderer, again) == heard(renderer, messages)


@holds
def test_a_reply_that_was_cut_off_anywhere_is_never_clean(renderer, data):
    messages, tools = drawn(renderer, data)
    assume(not excepted(renderer, messages, "several calls"))
    prompt, reply = said(renderer, messages, tools)
    cut = data.draw(st.integers(0, len(reply) - 1))
    assert renderer.parse_response(reply[:cut], prompt_ids=prompt, tools=tools).termination != "clean"


@holds
def test_parsing_never_raises_on_any_tokens(renderer, data):
    tokenizer = renderer.tokenizer
    controls = st.sampled_from(sorted(tokenizer._controls.values()))
    own = [id for word in LOOKALIKES for id in tokenizer.split(word) if isinstance(id, int)]
    stops = [id for id in renderer.get_stop_sequences() if isinstance(id, int)]
    wild = (
        st.integers() | st.integers(-3, len(tokenizer) + 3) | st.sampled_from([1 << 31, 1 << 32, -(1 << 40)])
    )
    one = st.one_of(controls.map(lambda id: [id]), wild.map(lambda id: [id]), TEXT.map(tokenizer.encode))
    one |= st.sampled_from([*own, *stops] or [0]).map(lambda id: [id])
    ids = st.lists(one, max_size=12).map(lambda parts: list(itertools.chain(*parts)))
    tokens, prompt = data.draw(ids), data.draw(st.none() | ids)
    parsed = renderer.parse_response(
        tokens, prompt_ids=prompt, tools=data.draw(st.sampled_from([None, TOOLS]))
    )
    assert parsed.message["role"] == "assistant" and isinstance(parsed.message["content"], str)
    if stops:
        assert parsed.stopped == any(id in stops for id in tokens)
        assert parsed.termination != "clean" or sum(id in stops for id in tokens) == 1


@holds
def test_weights_nest_agree_with_origins_and_change_neither_tokens_nor_messages(renderer, data):
    messages, tools = drawn(renderer, data)
    trainable = data.draw(st.lists(st.booleans(), min_size=len(messages), max_size=len(messages)))
    assume(any(trainable))
    messages = [{**m, "trainable": flag} for m, flag in zip(messages, trainable, strict=True)]
    before, tools_before = copy.deepcopy(messages), copy.deepcopy(tools)
    examples = {what: trained(renderer, messages, tools, what) for what in TRAIN}
    assert messages == before and tools == tools_before
    tokens = examples["all_tokens"].token_ids
    assert all(e.token_ids == tokens and len(e.weights) == len(tokens) for e in examples.values())
    for less, more in itertools.pairwise(TRAIN[:5]):
        pairs = zip(examples[less].weights, examples[more].weights, strict=True)
        assert all(w <= v for w, v in pairs), (less, more)
    assert set(examples["all_tokens"].weights) == {1.0}
    origins = examples["customized"].origins
    assert len(origins) == len(tokens)
    for i, (origin, weight) in enumerate(zip(origins, examples["customized"].weights, strict=True)):
        message, kind = origin
        if weight != float(kind != "header" and message is not None and trainable[message]):
            # a token that two pieces share is the first one's, and is trained only where both are
            assert weight == 0.0 and origins[i + 1].message != message


@holds
def test_every_trained_reply_is_covered_once_after_its_own_prompt(renderer, data):
    messages, tools = drawn(renderer, data)
    examples = renderer.build_supervised_examples(messages, tools=tools)
    weighed = 0
    for part in targets(messages):
        prompt, reply = said(renderer, part, tools)
        weights = trained(renderer, part, tools).weights
        end = len(prompt) + len(reply)
        weighed += sum(weights)
        covering = [
            e
            for e in examples
            if e.token_ids[:end] == prompt + reply and e.weights[len(prompt) : end] == weights[len(prompt) :]
        ]
        assert len(covering) == 1
    assert sum(sum(e.weights) for e in examples) == weighed


@holds
def test_adding_messages_changes_neither_tokens_nor_weights_before_or_the_bridge_says_so(renderer, data):
    messages, tools = drawn(renderer, data)
    messages = trimmed(renderer, messages)
    first = next(i for i, message in enumerate(messages) if message["role"] == "user")
    wholes = {
        n: trained(renderer, messages[:n], tools, "all_messages") for n in range(first + 1, len(messages) + 1)
    }
    for n in range(first + 1, len(messages)):
        if messages[n - 1]["role"] == messages[n]["role"] == "tool":
            continue  # results of one reply's calls stand together
        less, more, length = wholes[n], wholes[n + 1], len(wholes[n].token_ids)
        if more.token_ids[:length] == less.token_ids:
            assert more.weights[:length] == less.weights
        else:
            assert messages[n - 1]["role"] == "assistant"
            assert renderer.bridge(less.token_ids, True, messages[n : n + 1]) is None


@holds
def test_prompt_reply_and_bridge_are_the_prompt_of_the_whole_or_there_is_no_bridge(renderer, data):
    messages, tools = drawn(renderer, data)
    messages = trimmed(renderer, messages)
    for part in targets(messages)[:-1]:
        until = next(i for i in range(len(part), len(messages)) if messages[i]["role"] == "assistant")
        new = messages[len(part) : until]
        prompt = renderer.build_generation_prompt(part[:-1], tools=tools).token_ids
        before, reply = said(renderer, part, tools)
        if before != prompt:
            continue
        whole = renderer.build_generation_prompt(messages[:until], tools=tools).token_ids
        bridge = renderer.bridge(prompt + reply, True, new)
        assert bridge is None or prompt + reply + bridge == whole
        if renderer.id != "core/role_colon":
            bridge = renderer.bridge(prompt + reply[:-1], False, new)
            assert bridge is None or prompt + reply[:-1] + bridge == whole


def plain_text(value):
    """The same without a letter that control tokens are spelt with."""
    if isinstance(value, str):
        return value.translate(str.maketrans("<>[]|｜", "()()//"))
    if isinstance(value, dict):
        return {
            key: each if key in ("role", "tool_calls") else plain_text(each) for key, each in value.items()
        }
    return [plain_text(each) for each in value] if isinstance(value, list) else value


def worded(messages):
    """The same, every text with a word at both ends, which no tokenizer joins with what stands around it."""
    texts = ("content", "reasoning_content")
    return [{key: f"a{v}a" if key in texts else v for key, v in m.items()} for m in plain_text(messages)]


@holds
def test_tokens_are_those_of_the_text_that_they_spell(renderer, data):
    messages, _ = drawn(renderer, data)
    messages = [{k: v for k, v in m.items() if k != "tool_calls"} for m in worded(messages)]
    tokenizer = renderer.tokenizer
    assume(not any(excepted(renderer, part, "empty reasoning split") for part in targets(messages)))
    ids = said(renderer, messages, None)
    ids = ids[0] + ids[1]
    pieces = tokenizer.split(tokenizer.decode(ids))
    encoded = [[piece] if isinstance(piece, int) else tokenizer.encode(piece) for piece in pieces]
    assert list(itertools.chain(*encoded)) == ids


@holds
def test_no_text_becomes_a_control_token(renderer, data):
    messages, tools = drawn(renderer, data)
    controls = set(renderer.tokenizer._controls.values())

    def sequence(messages):
        ids = renderer.build_generation_prompt(messages[:-1], tools=tools).token_ids
        return [id for id in ids if id in controls]

    assert sequence(messages) == sequence(plain_text(messages))


class Pickled(pickle.Pickler):
    """All of a renderer but a large vocabulary, which takes a second each."""

    def persistent_id(self, value):
        return "backend" if isinstance(value, tokenizers_library.Tokenizer) else None


def pickled(renderer):
    backend, file = renderer.tokenizer._backend, io.BytesIO()
    if len(backend.get_vocab()) < 10000:
        return pickle.loads(pickle.dumps(renderer))
    Pickled(file).dump(renderer)
    unpickler = pickle.Unpickler(io.BytesIO(file.getvalue()))
    unpickler.persistent_load = lambda _: backend
    return unpickler.load()


@holds
def test_a_pickled_renderer_renders_the_same(renderer, data):
    messages, tools = drawn(renderer, data)
    prompt = pickled(renderer).build_generation_prompt(messages, tools=tools)
    assert prompt == renderer.build_generation_prompt(messages, tools=tools)


def test_stops_are_single_tokens(renderer):
    stops = renderer.get_stop_sequences()
    assert stops and len(set(stops)) == len(stops)
    if renderer.id != "core/role_colon":
        assert all(isinstance(id, int) and id >= 0 for id in stops)
        assert all(renderer.tokenizer.split(renderer.tokenizer.decode([id])) == [id] for id in stops)


def test_every_declared_exception_is_one_that_is_held_to_a_condition(renderer):
    assert set(renderer.exceptions) <= {*APPLIES, *EVERYWHERE} and all(renderer.exceptions.values())


def test_an_effort_that_the_last_user_is_asked_for_is_not_bridged(tokenizers):
    options = {"size": "super", "effort": "low", "preserve_thinking": True}
    renderer = get_renderer("nemotron3", tokenizers("nemotron3"), **options)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "c"},
    ]
    prompt, reply = said(renderer, messages, None)
    assert renderer.bridge(prompt + reply, True, [{"role": "user", "content": "d"}]) is None
    assert renderer.bridge(prompt + reply, True, [{"role": "tool", "content": "d"}]) is not None
