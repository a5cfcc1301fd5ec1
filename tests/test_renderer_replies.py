"""What sampled tokens say: whole, while they come, cut off, broken. And images, and any model's template."""

from __future__ import annotations

import base64
import pickle
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cookbook.errors import RendererError
from cookbook.rendering import ImageChunk

FORMATS = {
    "qwen3": "qwen3",
    "qwen3_thinking": "qwen3",
    "qwen3_instruct": "qwen3",
    "gpt_oss_medium_reasoning": "gpt_oss",
    "smollm2": "smollm2",
    "role_colon": "smollm2",
}
ASKED = [{"role": "user", "content": "?"}]
TOOLS = [{"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}]


def call(name="add", arguments='{"a":1}'):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


words = st.text(st.sampled_from("ab é🙂\n<"), min_size=1, max_size=12).map(lambda text: f"x{text}x")


@pytest.mark.parametrize("id", FORMATS)
def test_a_reply_that_is_read_as_it_comes_is_the_same_reply(kept_renderer, id):
    renderer = kept_renderer(id)
    speaks = id in ("smollm2", "role_colon")
    prompt = renderer.build_generation_prompt(ASKED, tools=None if speaks else TOOLS).token_ids

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(content=words, reasoning=st.none() | words, calls=st.integers(0, 1), size=st.integers(1, 5))
    def check(content, reasoning, calls, size):
        message = {"role": "assistant", "content": content}
        message |= (
            {"reasoning_content": reasoning} if reasoning and not speaks and "instruct" not in id else {}
        )
        message |= {"tool_calls": [call()]} if calls and not speaks else {}
        whole = renderer.build_supervised_example(
            [*ASKED, message], tools=None if speaks else TOOLS
        ).token_ids
        assert whole[: len(prompt)] == prompt
        sampled = whole[len(prompt) :]
        stream = renderer.stream_response(prompt_ids=prompt)
        deltas = [d for i in range(0, len(sampled), size) for d in stream.feed(sampled[i : i + size])]
        parsed = renderer.parse_response(sampled, prompt_ids=prompt)
        assert stream.finish() == parsed and parsed.termination == "clean"
        said = {
            region: "".join(d.text for d in deltas if d.region == region)
            for region in ("content", "reasoning")
        }
        assert said["content"].strip() == parsed.message["content"] == content
        assert (
            said["reasoning"]
            == parsed.message.get("reasoning_content", "")
            == message.get("reasoning_content", "")
        )
        assert parsed.message.get("tool_calls", []) == message.get("tool_calls", [])
        assert any(d.region == "call" for d in deltas) == bool(calls and not speaks)

    check()


def parsed(renderer, text, prompt_ids=()):
    """What a reply says whose control tokens are spelt out."""
    pieces = renderer.tokenizer.split(text)
    ids = [id for p in pieces for id in (renderer.tokenizer.encode(p) if isinstance(p, str) else [p])]
    return renderer.parse_response(ids, prompt_ids=prompt_ids)


@pytest.mark.parametrize(
    ("text", "termination", "problem", "message"),
    [
        ("Paris.<|im_end|>", "clean", "", {"content": "Paris."}),
        ("Paris.", "truncated", "", {"content": "Paris."}),
        ("", "truncated", "", {"content": ""}),
        ("two<|im_end|>stops<|im_end|>", "malformed", "tokens after the stop", {"content": "two"}),
        (
            "<think>\nwhy\n</think>\n\nso<|im_end|>",
            "clean",
            "",
            {"content": "so", "reasoning_content": "why"},
        ),
        ("<think></think>x<|im_end|>", "clean", "", {"content": "x"}),
        (
            "<think>\nopen<|im_end|>",
            "malformed",
            "isn't closed",
            {"content": "", "reasoning_content": "open"},
        ),
        ("<think>\nopen", "truncated", "", {"content": "", "reasoning_content": "open"}),
        (
            'ok\n<tool_call>\n{"name": "add", "arguments": {"a":  1}}\n</tool_call><|im_end|>',
            "clean",
            "",
            {"content": "ok", "tool_calls": [call(arguments='{"a":  1}')]},
        ),
        (
            '<tool_call>\n{"name": "say", "arguments": {"text": "</tool_call>"}}\n</tool_call><|im_end|>',
            "clean",
            "",
            {"content": "", "tool_calls": [call("say", '{"text": "</tool_call>"}')]},
        ),
        (
            '<tool_call>\n{"name": "add", "arguments": [1]}\n</tool_call><|im_end|>',
            "malformed",
            "no object",
            {
                "content": "",
                "unparsed_tool_calls": [
                    {"text": '\n{"name": "add", "arguments": [1]}\n', "reason": '"arguments" is no object'}
                ],
            },
        ),
        (
            '<tool_call>\n{"name": "add"<|im_end|>',
            "malformed",
            "the call isn't closed",
            {
                "content": "",
                "unparsed_tool_calls": [{"text": '\n{"name": "add"', "reason": "the call isn't closed"}],
            },
        ),
    ],
)
def test_a_reply_of_qwen3_is_told_clean_cut_off_or_broken(kept_renderer, text, termination, problem, message):
    found = parsed(kept_renderer("qwen3"), text)
    assert found.termination == termination and problem in found.problem
    assert found.message == {"role": "assistant", **message}


def test_text_that_only_looks_like_a_call_or_reasoning_is_text(kept_renderer):
    renderer = kept_renderer("qwen3")
    text = '<think>no</think><tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    found = renderer.parse_response([*renderer.tokenizer.encode(text), *renderer.get_stop_sequences()])
    assert found.message == {"role": "assistant", "content": text} and found.termination == "clean"


def test_what_the_prompt_began_is_gone_on_with(kept_renderer):
    renderer = kept_renderer("qwen3")
    prompt = renderer.build_generation_prompt(ASKED, prefill="<think>\nFirst").token_ids
    found = parsed(renderer, ", second.\n</think>\n\nDone<|im_end|>", prompt)
    assert found.message == {"role": "assistant", "content": "Done", "reasoning_content": ", second."}


@pytest.mark.parametrize(
    ("text", "termination", "message"),
    [
        ("<|channel|>final<|message|>Hi<|return|>", "clean", {"content": "Hi"}),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>",
            "clean",
            {"content": "Hi", "reasoning_content": "hm"},
        ),
        (
            "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>",
            "clean",
            {"content": "", "tool_calls": [call(arguments="{}")]},
        ),
        (
            " to=browser.search<|channel|>analysis<|message|>cats<|call|>",
            "clean",
            {"content": "", "tool_calls": [call("browser.search", "cats")]},
        ),
        ("<|channel|>final<|message|><|return|>", "clean", {"content": ""}),
        ("just text<|return|>", "malformed", {"content": "just text"}),
        ("<|channel|>final<|message|>Hi<|call|>", "malformed", {"content": "Hi"}),
        ("<|channel|>analysis<|message|>hm", "truncated", {"content": "", "reasoning_content": "hm"}),
    ],
)
def test_a_reply_of_gpt_oss_is_read_by_its_channels(kept_renderer, text, termination, message):
    renderer = kept_renderer("gpt_oss_medium_reasoning")
    found = parsed(renderer, text, renderer.build_generation_prompt(ASKED).token_ids)
    assert found.termination == termination and found.message == {"role": "assistant", **message}


def test_gpt_oss_goes_on_after_a_call_and_not_after_an_answer(kept_renderer):
    renderer = kept_renderer("gpt_oss_medium_reasoning")
    prompt = renderer.build_generation_prompt(ASKED, tools=TOOLS).token_ids
    reply = {"role": "assistant", "content": "", "tool_calls": [call()]}
    result = {"role": "tool", "content": "2"}
    called = renderer.build_supervised_example([*ASKED, reply], tools=TOOLS).token_ids
    whole = renderer.build_generation_prompt([*ASKED, reply, result], tools=TOOLS).token_ids
    assert called[: len(prompt)] == prompt and called + renderer.bridge(called, True, [result]) == whole
    answered = renderer.build_supervised_example([*ASKED, {"role": "assistant", "content": "x"}]).token_ids
    assert renderer.bridge(answered, True, ASKED) is None


def test_a_date_is_part_of_what_made_a_renderer(kept_renderer):
    renderer = kept_renderer("gpt_oss_low_reasoning")
    assert renderer.id == "core/gpt_oss_low_reasoning" and renderer.options["effort"] == "low"
    again = kept_renderer("gpt_oss_low_reasoning", **renderer.options)
    prompt = renderer.build_generation_prompt(ASKED).token_ids
    assert again.build_generation_prompt(ASKED).token_ids == prompt
    copy = pickle.loads(pickle.dumps(renderer))
    assert copy.build_generation_prompt(ASKED).token_ids == prompt and copy.options == renderer.options


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + b"\0" * 3 * width for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("size", "tokens"), [((64, 48), 70), ((640, 480), 300), ((8, 800), 80)])
def test_an_image_is_a_chunk_with_the_tokens_that_the_model_sees(kept_renderer, tmp_path, size, tokens):
    """64 x 48 as in the goldens; 640 x 480 is 20 x 15 squares of 32; the last is 25 squares long, and
    grows to the least area."""
    data = png(*size)
    (tmp_path / "x.png").write_bytes(data)
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    for source in (data, uri, str(tmp_path / "x.png")):
        parts = [{"type": "text", "text": "See "}, {"type": "image", "image": source}]
        prompt = kept_renderer("qwen3_vl").build_generation_prompt([{"role": "user", "content": parts}])
        before, image, after = prompt.chunks
        assert isinstance(image, ImageChunk) and image.image.data == data and image.expected_tokens == tokens
        assert prompt.token_ids == [*before, *[-1] * tokens, *after] and len(prompt.origins) == len(
            prompt.token_ids
        )
        with pytest.raises(RendererError, match="the loops don't carry images yet"):
            prompt.only_tokens()


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("https://example.org/x.png", "give the bytes, a file, or a data URI"),
        ("/nowhere.png", "can't be read"),
        ("data:image/png;base64,%%%", "can't be read"),
        (b"GIF89a", "neither PNG nor JPEG"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_line(kept_renderer, image, line):
    message = {"role": "user", "content": [{"type": "image", "image": image}]}
    with pytest.raises(RendererError, match=line) as e:
        kept_renderer("qwen3_vl").build_generation_prompt([message])
    assert "\n" not in str(e.value) and "messages[0]" in str(e.value)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_models_own_template_gives_what_chatml_gives(kept_renderer, tmp_path):
    own, chatml = kept_renderer("hf", chat_template=CHATML), kept_renderer("chatml")
    talk = [
        {"role": "system", "content": "<|im_end|>\ue000\ue001"},
        *ASKED,
        {"role": "assistant", "content": "a<|im_start|>"},
        *ASKED,
        {"role": "assistant", "content": " b\n"},
    ]
    for what in ("last_assistant_message", "all_assistant_messages", "all_messages", "all_tokens"):
        ours, theirs = (r.build_supervised_example(talk, train_on_what=what) for r in (own, chatml))
        assert (ours.token_ids, ours.weights) == (theirs.token_ids, theirs.weights), what
    prompt = own.build_generation_prompt(talk[:2]).token_ids
    assert prompt == chatml.build_generation_prompt(talk[:2]).token_ids
    assert own.get_stop_sequences() == chatml.get_stop_sequences()
    sampled = [*prompt, *own.tokenizer.encode("a"), *own.get_stop_sequences()]
    assert own.bridge(sampled, True, ASKED) == chatml.bridge(sampled, True, ASKED)
    (tmp_path / "template").write_text(CHATML)
    from_file = kept_renderer("hf", chat_template=str(tmp_path / "template"))
    assert from_file.build_generation_prompt(talk[:2]).token_ids == prompt


def test_a_template_that_edits_history_says_so_and_each_reply_can_be_trained_after_its_own_prompt(
    kept_renderer,
):
    edits = CHATML.replace("m.content", "(m.content if loop.last or m.role != 'assistant' else '...')")
    own = kept_renderer("hf", chat_template=edits)
    talk = [*ASKED, {"role": "assistant", "content": "a"}, *ASKED, {"role": "assistant", "content": "b"}]
    with pytest.raises(RendererError, match=r"messages\[1\] can't be trained within this conversation"):
        own.build_supervised_example(talk)
    first, second = own.build_supervised_examples(talk)
    text = own.tokenizer.decode
    trained = [text([i for i, w in zip(e.token_ids, e.weights, strict=True) if w]) for e in (first, second)]
    assert trained == ["a<|im_end|>", "b<|im_end|>"] and "...<|im_end|>" in text(second.token_ids)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{ raise_exception('no') }}", "refuses this: no"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends a reply without a control token"),
        ("{{ messages.__class__.__mro__ }}", "refuses this"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(kept_renderer, template, line):
    with pytest.raises(RendererError, match=line) as e:
        kept_renderer("hf", chat_template=template)
    assert "\n" not in str(e.value)


def test_a_model_without_a_template_is_told_what_to_do(kept_renderer):
    with pytest.raises(RendererError, match="has no chat template; give one"):
        kept_renderer("hf")
