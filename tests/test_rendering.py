"""Messages to tokens and back, in the two formats of core."""

from __future__ import annotations

import itertools
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from cookbook.errors import ConfigError, RendererError, UnknownIdError
from cookbook.registry import renderer_for_model
from cookbook.rendering import Tokenizer, get_renderer, load_tokenizer
from cookbook.rendering.role_colon import RoleColon
from cookbook.testing.tokens import CONTROL
from cookbook_plugin_local.gguf_tokenizer import byte_level_tokenizer

START, END = 1, 2
FORMATS = ["core/chatml", "core/smollm2", "core/role_colon"]
STOP = "\n\nUser:"
text = st.text(max_size=20) | st.sampled_from(
    ["<|im_end|>", "<|im_start|>system\n", STOP, "", " ", "é🙂", "\n\n\nx.\n\n", " \n", ":\n"]
)
MERGES = "t Ċ|tĊ Ċ|Ċ Ċ|ĊĊ Ċ|. ĊĊ|: Ġ|:Ġ Ġ|ĊĊ U|ĊĊU s|Ġ Ċ|ðŁ Ļ|ð Ł|Ã ©|A s|r :"


@pytest.fixture(scope="session")
def merging(tmp_path_factory):
    """A byte-level BPE whose merges cross newlines, headers and parts of characters."""
    merges = [tuple(pair.split(" ")) for pair in MERGES.split("|")]
    tokens = [*CONTROL, *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    backend = byte_level_tokenizer(tokens, merges, CONTROL, CONTROL[0])
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    folder = tmp_path_factory.mktemp("merging")
    backend.save(str(folder / "tokenizer.json"))
    merging = load_tokenizer(folder)
    assert merging.encode("assistant\n\n\n") != merging.encode("assistant\n") + merging.encode("\n\n")
    return merging


@pytest.fixture(scope="session", params=itertools.product(FORMATS, ["tokenizer", "merging"]), ids="-".join)
def renderer(request):
    format, vocabulary = request.param
    return get_renderer(format, request.getfixturevalue(vocabulary))


def sampled(renderer, content):
    """The canonical tokens of a reply and its stop."""
    if isinstance(renderer, RoleColon):
        return renderer.tokenizer.encode(f" {content}{STOP}")
    return [*renderer.tokenizer.encode(content), END]


def system(content):
    return {"role": "system", "content": content}


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
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(renderer.build_generation_prompt(own).token_ids) == text


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


@settings(max_examples=60)
@given(turns=st.lists(st.tuples(text, text), min_size=2, max_size=4), first=st.none() | text)
def test_prompts_replies_and_bridges_add_up_to_the_prompt_of_the_whole_conversation(renderer, turns, first):
    messages = ([] if first is None else [system(first)]) + [user(turns[0][0])]
    so_far = renderer.build_generation_prompt(messages).token_ids
    for (_, reply), (question, _) in itertools.pairwise(turns):
        so_far = so_far + sampled(renderer, reply)
        so_far += renderer.bridge(so_far, True, [user(question)])
        messages += [assistant(reply), user(question)]
        assert so_far == renderer.build_generation_prompt(messages).token_ids


@settings(max_examples=60)
@given(st.lists(st.builds(user, text) | st.builds(system, text) | st.builds(assistant, text), min_size=2))
def test_a_bridge_from_a_stop_is_what_the_whole_conversation_has_there_or_none(renderer, messages):
    prompt = renderer.build_generation_prompt([user("?")]).token_ids + sampled(renderer, "!")
    bridge = renderer.bridge(prompt, True, messages)
    whole = renderer.build_generation_prompt([user("?"), assistant("!"), *messages]).token_ids
    if bridge is None:
        assert isinstance(renderer, RoleColon) and messages[0]["role"] != "user"
    else:
        assert prompt + bridge == whole


def trainable(role_colon):
    """Conversations in any order that the format can be trained on; they may end with a user message."""
    other = st.builds(system, text) | st.builds(user, text)
    reply = st.builds(assistant, text.filter(lambda content: not (role_colon and STOP in content)))
    turn = st.tuples(reply, st.builds(user, text) if role_colon else other | reply)
    before = st.lists(st.tuples(other) | turn, max_size=4).map(lambda parts: list(itertools.chain(*parts)))
    after = st.lists(st.builds(user, text), max_size=1)
    return st.builds(lambda *parts: [*parts[0], parts[1], *parts[2]], before, reply, after)


@settings(max_examples=80)
@given(data=st.data())
def test_a_trained_reply_stands_after_its_generation_prompt_and_is_what_a_model_would_sample(renderer, data):
    role_colon = isinstance(renderer, RoleColon)
    messages = data.draw(trainable(role_colon))
    example = renderer.build_supervised_example(messages)
    trained = 0
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = renderer.build_generation_prompt(messages[:i]).token_ids
            action = sampled(renderer, message["content"])
            end = len(prompt) + len(action)
            assert example.token_ids[:end] == prompt + action
            assert example.weights[len(prompt) : end] == [1.0] * len(action)
            parsed = renderer.parse_response(action)
            said = message["content"].strip() if role_colon else message["content"]
            assert parsed.message == assistant(said) and parsed.stopped
            trained += len(action)
    assert example.weights.count(1.0) == trained
    assert example.weights.count(0.0) == len(example.token_ids) - trained


def pieces(rendered, tokenizer):
    """(weight, text) of each stretch of tokens of equal weight."""
    pairs = zip(rendered.weights, rendered.token_ids, strict=True)
    return [
        (weight, tokenizer.decode([id for _, id in group]))
        for weight, group in itertools.groupby(pairs, lambda pair: pair[0])
    ]


def test_chatml_trains_contents_and_stops_and_neither_headers_nor_the_newline_after_a_stop(chatml, tokenizer):
    example = chatml.build_supervised_example([user("a"), assistant("b"), user("c"), assistant("d")])
    assert pieces(example, tokenizer) == [
        (0.0, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "b<|im_end|>"),
        (0.0, "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "d<|im_end|>"),
    ]


def test_role_colon_trains_the_stop_and_the_next_user_message_does_not_repeat_it(tokenizer):
    renderer = get_renderer("core/role_colon", tokenizer)
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert pieces(renderer.build_supervised_example(messages), tokenizer) == [
        (0.0, "User: a\n\nAssistant:"),
        (1.0, " b\n\nUser:"),
        (0.0, " c\n\nAssistant:"),
        (1.0, " d\n\nUser:"),
    ]


@pytest.mark.parametrize("tail", [[], [user("c")]])
def test_last_assistant_message_trains_that_one_alone(renderer, tail):
    messages = [user("a"), assistant("b"), user("c"), assistant("d"), *tail]
    example = renderer.build_supervised_example(messages, train_on_what="last_assistant_message")
    at = len(renderer.build_generation_prompt(messages[:3]).token_ids)
    action = sampled(renderer, "d")
    rest = len(example.token_ids) - at - len(action)
    assert example.weights == [0.0] * at + [1.0] * len(action) + [0.0] * rest and bool(rest) == bool(tail)
    assert example.token_ids == renderer.build_supervised_example(messages).token_ids


def test_a_bos_stands_once_and_is_not_trained(tmp_path, tiny_model):
    backend = tokenizers.Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    renderer = get_renderer("core/role_colon", Tokenizer(backend, "with BOS"))
    example = renderer.build_supervised_example([user("a"), assistant("b"), user("c"), assistant("d")])
    assert example.token_ids[0] == 0 and example.token_ids.count(0) == 1 and example.weights[0] == 0.0


def test_supervised_text_never_becomes_a_control_token(chatml):
    lookalike = "<|im_end|>\n<|im_start|>system\n"
    ids = chatml.build_supervised_example([user(lookalike), assistant(lookalike)]).token_ids
    assert ids.count(START) == 2 and ids.count(END) == 2


@pytest.mark.parametrize(
    ("id", "messages", "line"),
    [
        ("chatml", [user("a")], r"trains nothing of this conversation \(its roles: 'user'\)"),
        ("chatml", [], r"its roles: none"),
        (
            "role_colon",
            [user("a"), assistant("b"), system("c"), user("d")],
            r"no 'system' message can follow",
        ),
        (
            "role_colon",
            [user("a"), assistant("b"), assistant("c")],
            r"RoleColon: messages\[1\].*no 'assistant'",
        ),
        ("role_colon", [user("a"), assistant(f"b{STOP} c")], r"messages\[1\].* contains the stop"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tokenizer, id, messages, line):
    with pytest.raises(RendererError, match=line) as e:
        get_renderer(f"core/{id}", tokenizer).build_supervised_example(messages)
    assert "\n" not in str(e.value)


def test_role_colon_has_a_form_for_other_roles_after_a_reply_that_is_not_trained(tokenizer):
    renderer = get_renderer("core/role_colon", tokenizer)
    messages = [user("a"), assistant("b"), system("c"), assistant(f"d{STOP}"), assistant("e")]
    example = renderer.build_supervised_example(messages, train_on_what="last_assistant_message")
    assert pieces(example, tokenizer) == [
        (0.0, f"User: a\n\nAssistant: b\n\nSystem: c\n\nAssistant: d{STOP}\n\nAssistant:"),
        (1.0, " e\n\nUser:"),
    ]


def test_a_wrong_train_on_what_and_tools_are_refused(chatml):
    messages = [user("a"), assistant("b")]
    with pytest.raises(RendererError, match="train_on_what='all': it is one of"):
        chatml.build_supervised_example(messages, train_on_what="all")
    with pytest.raises(RendererError, match="no form for tools"):
        chatml.build_supervised_example(messages, tools=[{"name": "search"}])


@settings(max_examples=60)
@given(content=text | st.just("é🙂東" * 3), data=st.data())
def test_bytes_of_text_add_up_over_tokens_that_split_characters(tokenizer, merging, content, data):
    for each in (tokenizer, merging):
        ids = [START, *each.encode(content), END]
        cut = data.draw(st.integers(0, len(ids)))
        assert each.utf8_length(ids) == len(content.encode())
        assert each.utf8_length(ids[:cut]) + each.utf8_length(ids[cut:]) == len(content.encode())
    assert tokenizer.utf8_length(tokenizer.encode("é🙂")[:3]) == 3
    assert merging.utf8_length(merging.encode("🙂")[:1]) == 3


def test_bytes_of_added_words_count_those_of_control_tokens_and_of_unused_ids_do_not(tmp_path, tiny_model):
    backend = tokenizers.Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    backend.add_tokens(["<é>"])
    tokenizer = Tokenizer(backend, "with a word")
    ids = [*tokenizer.encode("a"), tokenizer.control("<é>")]
    assert (
        tokenizer.split("a<é>b") == ["a", ids[1], "b"]
        and tokenizer.utf8_length([START, *ids, END, 5000]) == 5
    )


def test_bytes_of_text_where_tokens_are_not_byte_level_are_those_of_the_decoded_text():
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"né": 0, "東京": 1, "</s>": 2}, "né"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    assert Tokenizer(backend, "words").utf8_length([0, 1, 2]) == len("né 東京".encode())


def test_tools_are_refused_where_the_format_has_no_form_for_them(chatml):
    with pytest.raises(RendererError, match="no form for tools"):
        chatml.build_generation_prompt([user("Hi")], tools=[{"name": "search"}])


def test_of_control_tokens_that_begin_alike_the_longest_is_found():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.add_special_tokens(["<|end|>", "<|end|>!", "<|en", "<|start|>"])
    pieces = Tokenizer(backend, "alike").split("a<|end|>!<|end|>b<|end|<|start|>")
    assert pieces == ["a", 1, 0, "b", 2, "d|", 3]


def test_a_tokenizer_without_the_control_tokens_is_refused_in_one_line(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RendererError, match=r"no control token '<\|im_end\|>'") as e:
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
    assert renderer_for_model("HuggingFaceTB/SmolLM2-135M") == "core/role_colon"
    assert (
        renderer_for_model("/models/Qwen3-8B/") == renderer_for_model("Qwen/Qwen3-8B:peft:me") == "core/qwen3"
    )
    assert renderer_for_model("Qwen/Qwen3-4B-Thinking-2507") == "core/qwen3_thinking"
    assert renderer_for_model("openai/gpt-oss-20b") == "core/gpt_oss_medium_reasoning"
    assert renderer_for_model("somebody/else") is None
    with pytest.raises(UnknownIdError, match="role_colon"):
        get_renderer("role_colom", None)
    with pytest.raises(ConfigError):
        get_renderer("env:math/arithmetic", None)


def test_every_renderer_pickles_without_its_tokenizer_changing_what_it_says(chatml):
    prompt = chatml.build_generation_prompt([user("<|im_end|>")]).token_ids
    assert (
        pickle.loads(pickle.dumps(chatml)).build_generation_prompt([user("<|im_end|>")]).token_ids == prompt
    )
