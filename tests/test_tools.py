"""Tools: declared from a signature, called by a model that may write anything."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import tinker
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from typing_extensions import TypedDict

from cookbook import Grade, Question, tools
from cookbook.backends.base import Sampler
from cookbook.data import sequences
from cookbook.errors import EnvError, RendererError
from cookbook.rendering import get_renderer
from cookbook.rollout import Limits, Player


@dataclass
class Point:
    x: int
    y: float = 0.0


class Options(TypedDict):
    deep: bool


async def look(schema: str, n: int = 3, mode: Literal["a", "b"] = "a") -> str:
    """Looks a word
    up.

    More of it.

    Args:
        schema (str): the word,
            in lower case
        n: how many
    """
    return f"{schema} {n} {mode}"


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def ask(name, arguments, **more):
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "function": function, **more}


def reply(*calls, **more):
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **more}


def told(function, arguments):
    """What one call's message says."""
    (message,) = asyncio.run(tools.call(reply(ask(function.__name__, arguments)), [function]))
    return message["content"]


def test_a_declaration_says_name_summary_types_defaults_and_what_the_docstring_says_of_each():
    assert tools.describe(look) == {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks a word up.",
            "parameters": {
                "type": "object",
                "properties": {
                    "schema": {"type": "string", "description": "the word, in lower case"},
                    "n": {"type": "integer", "description": "how many", "default": 3},
                    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                },
                "required": ["schema"],
                "additionalProperties": False,
            },
        },
    }
    json.dumps(tools.describe(look))


@pytest.mark.parametrize(
    ("type", "schema"),
    [
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": True}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Annotated[int, Field(ge=0, description="n")], {"type": "integer", "minimum": 0, "description": "n"}),
        (Any, {}),
    ],
)
def test_a_type_is_its_json_schema(type, schema):
    def tool(value: type):
        return "ok"

    tool.__annotations__ = {"value": type}
    parameters = tools.describe(tool)["function"]["parameters"]
    assert parameters["properties"] == {"value": schema} and parameters["required"] == ["value"]


def test_dataclasses_and_typed_dicts_come_as_what_they_are():
    def tool(point: Point, options: Options, points: list[Point] = []) -> list:  # noqa: B006
        return [type(point).__name__, point.x, options["deep"], len(points)]

    arguments = '{"point": {"x": 1}, "options": {"deep": true}, "points": [{"x": 2, "y": 3}]}'
    assert told(tool, arguments) == '["Point", 1, true, 1]'
    assert told(tool, '{"point": {"x": "1"}, "options": {"deep": true}}').startswith("error: tool: point.x: ")


def test_a_declaration_that_is_changed_changes_no_other():
    tools.describe(look)["function"]["parameters"]["properties"].clear()
    assert "schema" in tools.describe(look)["function"]["parameters"]["properties"]


class Counter:
    def __init__(self):
        self.n = 0

    async def count(self, by: int = 1) -> int:
        """Counts."""
        self.n += by
        return self.n

    def untyped(self, by):
        return by


def test_bound_methods_are_tools_of_their_own_object():
    one, other = Counter(), Counter()
    assert tools.describe(one.count) == tools.describe(other.count)
    assert list(tools.describe(one.count)["function"]["parameters"]["properties"]) == ["by"]
    made = asyncio.run(tools.call(reply(ask("count", '{"by": 2}'), ask("count", "{}")), [one.count]))
    assert [m["content"] for m in made] == ["2", "3"] and (one.n, other.n) == (3, 0)


def rest(*words: str):
    return ""


def named(**words: str):
    return ""


def unknown(x: Nowhere):  # noqa: F821
    return ""


def odd(x: asyncio.Event):
    return ""


def größe(x: int):
    return ""


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda x: x, "'<lambda>'"),
        (rest, r"has \*words: a model gives each argument by its name"),
        (named, r"has \*\*words: a model"),
        (Counter().untyped, "has no type for its parameter 'by'"),
        (Counter.count, "has no type for its parameter 'self'; pass the bound method"),
        (unknown, "can't be declared: NameError: name 'Nowhere' is not defined"),
        (odd, "can't be declared: Pydantic"),
        (größe, "has no name that can be declared"),
        (Counter, "is no function and no bound method"),
        (len, "is no function and no bound method"),
        ("look", "is no function and no bound method"),
    ],
)
def test_what_can_not_be_declared_is_told_to_its_author_in_one_line(function, line):
    with pytest.raises(EnvError, match=line) as e:
        tools.describe(function)
    assert "\n" not in str(e.value)


def test_two_tools_of_one_name_are_refused_when_declared_and_when_called():
    other = Counter()
    with pytest.raises(EnvError, match="two tools are called 'count'"):
        asyncio.run(tools.call(reply(), [Counter().count, other.count]))
    with pytest.raises(EnvError, match="two tools are called 'count'"):
        Question("?", "", "core/exact", tools=(Counter().count, other.count)).table()


def test_calls_are_run_in_order_and_answered_with_their_id_and_name():
    made = asyncio.run(
        tools.call(
            reply(ask("look", '{"schema": "é"}', id="1"), ask("add", {"a": 1, "b": 2}, id="2")), [add, look]
        )
    )
    assert made == [
        {"role": "tool", "content": "é 3 a", "tool_call_id": "1", "name": "look"},
        {"role": "tool", "content": "3", "tool_call_id": "2", "name": "add"},
    ]
    assert asyncio.run(tools.call({"role": "assistant", "content": "hi"}, [add])) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ('{"a": 1, "b": "2"}', "b: Input should be a valid integer"),
        ('{"a": 1, "b": 2.0}', "b: Input should be a valid integer"),
        ('{"a": 1, "b": true}', "b: Input should be a valid integer"),
        ('{"a": 1}', "b: Field required"),
        ("{}", "a: Field required; b: Field required"),
        ("", "a: Field required"),
        ('{"a": 1, "b": 2, "c": 3}', "c: Extra inputs are not permitted"),
        ('{"a": 1, "b": 2, "self": 3}', "self: Extra inputs"),
        ('{"a": 1, "a": 1, "b": 2}', "the key 'a' stands there twice"),
        ('{"a": 1, "b": NaN}', "the arguments are no JSON"),
        ('{"a": 1, "b": 1e999}', "1e999 is no finite number"),
        ("[1, 2]", "the arguments are no JSON object"),
        ("null", "the arguments are no JSON object"),
        ("{'a': 1}", "the arguments are no JSON"),
        ('{"a": 1, "b": 2', "the arguments are no JSON"),
        ("[" * 100_000, "recursion limit"),
        ('{"a":' * 500 + "1" + "}" * 500, "recursion limit"),
        ('{"a": 1, "b": ' + "9" * 5000 + "}", "the arguments are no JSON"),
        ('{"a": "\\ud800", "b": 1}', "the arguments are no JSON"),
        ('{"a": 1, "b": 2, "' + "c" * 100_000 + '": 3}', "c...: Extra inputs"),
        ("{" + ",".join(f'"k{i}": {i}' for i in range(2000)) + "}", "Field required"),
    ],
)
def test_bad_arguments_are_told_to_the_model_in_one_bounded_line(arguments, line):
    content = told(add, arguments)
    assert content.startswith("error: add: ") and line in content
    assert "\n" not in content and len(content) <= tools.MAX_LINE


@pytest.mark.parametrize("name", ["__class__", "nothing", "", "x" * 100_000, "add\nlook", None, 3])
def test_a_tool_that_is_not_there_is_told_with_those_that_are(name):
    (message,) = asyncio.run(tools.call(reply(ask(name, "{}")), [add, look]))
    assert message["content"].startswith("error: there is no tool ")
    assert message["content"].endswith("; there are: add, look")
    assert "\n" not in message["content"] and len(message["content"]) <= tools.MAX_LINE


def test_what_was_meant_as_a_call_is_told_why_it_is_none():
    broken = [{"text": "{", "reason": "no JSON: line 1\nline 2"}]
    outcome = asyncio.run(tools.run(reply(ask("add", '{"a": 1, "b": 2}'), unparsed_tool_calls=broken), [add]))
    assert [m["content"] for m in outcome.messages] == [
        "3",
        "error: this is no call that can be read: no JSON: line 1 line 2",
    ]
    assert (outcome.calls, outcome.failed) == (2, 1)


def test_ten_thousand_calls_in_one_reply_run_sixteen_and_one_message_tells_of_the_rest():
    counter = Counter()
    outcome = asyncio.run(tools.run(reply(*[ask("count", "{}")] * 10_000), [counter.count]))
    assert counter.n == tools.MAX_CALLS == 16 and len(outcome.messages) == 17
    assert (
        outcome.messages[-1]["content"] == "error: only the first 16 calls of a reply are run; 9984 were not"
    )
    assert (outcome.calls, outcome.failed) == (10_000, 9984)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, database=None)
@given(calls=JSON | st.lists(JSON, max_size=3), name=JSON | st.just("add"), arguments=JSON | st.text())
def test_nothing_in_a_reply_makes_a_call_raise(calls, name, arguments):
    calls = calls if isinstance(calls, list) else [calls]
    said = reply(*calls, ask(name, arguments), ask("add", arguments), unparsed_tool_calls=calls)
    made = asyncio.run(tools.call(copy.deepcopy(said), [add, look]))
    assert len(made) == min(2 * len(calls) + 2, 17)
    assert all(m["role"] == "tool" and isinstance(m["content"], str) for m in made)


def test_a_value_error_is_how_a_tool_refuses_and_any_other_is_the_environments_failure():
    def refuses(x: int) -> str:
        raise ValueError(f"no row {x}\nin the table" + "!" * 1000)

    def fails(x: int) -> str:
        raise ZeroDivisionError("of the tool")

    def broken(x: int) -> str:
        raise EnvError("the table is gone")

    assert told(refuses, '{"x": 7}').startswith("error: refuses: no row 7 in the table!!!")
    assert len(told(refuses, '{"x": 7}')) <= tools.MAX_LINE
    with pytest.raises(ZeroDivisionError, match="of the tool"):
        told(fails, '{"x": 1}')
    with pytest.raises(EnvError, match="the table is gone"):
        told(broken, '{"x": 1}')


def test_a_result_is_a_text_as_it_is_or_json_and_is_bounded():
    def gives(what: str):
        results = {"text": "a\nb", "none": None, "list": [1, {"é": 2.5}], "nan": float("nan"), "set": {1}}
        return {**results, "long": "x" * 30_000, "number": 10**5000}[what]

    assert told(gives, '{"what": "text"}') == "a\nb"
    assert told(gives, '{"what": "none"}') == "null"
    assert told(gives, '{"what": "list"}') == '[1, {"é": 2.5}]'
    assert told(gives, '{"what": "nan"}').startswith("error: gives: the result can't be written")
    assert told(gives, '{"what": "number"}').startswith("error: gives: the result can't be written")
    long = told(gives, '{"what": "long"}')
    assert long.endswith("xxx... (cut: 30000 characters)") and len(long) < tools.MAX_RESULT + 50
    with pytest.raises(EnvError, match="the tool 'gives' gave what is no JSON"):
        told(gives, '{"what": "set"}')


def test_a_question_with_tools_pickles():
    question = Question("?", 3, "core/exact", tools=(add,))
    assert pickle.loads(pickle.dumps(question)) == question


class Scripted:
    """A sampling client whose replies are given, texts with their stop or None, after which it is cut off."""

    def __init__(self, renderer, *replies):
        self.renderer, self.replies, self.prompts = renderer, list(replies), []

    async def sample(self, prompt, num_samples, sampling_params):
        self.prompts.append(prompt.to_ints())
        ids = [id for part in self.renderer.tokenizer.split(self.replies.pop(0)) for id in tokens(self, part)]
        sequence = tinker.SampledSequence(
            stop_reason="stop" if ids[-1] in self.renderer.get_stop_sequences() else "length",
            sequence_id="x",
            tokens_np=np.array(ids, dtype=np.int32),
            logprobs_np=np.full(len(ids), -0.5, dtype=np.float32),
        )
        return tinker.SampleResponse(sequences=[sequence])


def tokens(client, part):
    return [part] if isinstance(part, int) else client.renderer.tokenizer.encode(part)


class Is:
    def grade(self, prompt, reply, reference):
        return Grade(reply["content"] == reference)


def called(*calls):
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls) + "<|im_end|>"


GOOD = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
BAD = '{"name": "add", "arguments": {"a": 1, "b": "2"}}'


@pytest.mark.parametrize("id", ["qwen3_instruct", "smollm2", "chatml_tools"])
def test_an_episode_with_tools_goes_on_verbatim_and_trains_exactly_what_was_sampled(
    id, kept_renderer, kept_tokenizer
):
    renderer = get_renderer(id, kept_tokenizer("qwen3" if id.startswith("qwen3") else "smollm2"))
    client = Scripted(renderer, called(GOOD, BAD), called("{not JSON"), "3<|im_end|>")
    question = Question("1 + 2?", "3", Is(), tools=(add,))
    (episode,) = asyncio.run(Player(renderer, 200, Limits()).group(question, 1, Sampler(client, 0), (0,)))
    said = [m["content"] for m in episode.messages if m["role"] == "tool"]
    assert said[0] == "3" and said[1] == "error: add: b: Input should be a valid integer"
    assert said[2].startswith("error: this is no call that can be read: no JSON") and len(said) == 3
    assert (episode.reward, episode.correct, episode.stop_reason) == (1.0, True, "done")
    assert episode.metrics == {"tool_calls": 3, "failed_tool_calls": 2}
    prompt = renderer.tokenizer.decode(client.prompts[0])
    assert json.dumps(tools.describe(add), ensure_ascii=False) in prompt
    for before, after in itertools.pairwise(episode.turns):
        so_far = [*before.prompt_T, *before.tokens_T]
        assert list(after.prompt_T[: len(so_far)]) == so_far
    (sequence,) = sequences(episode.turns)
    sampled = [id for turn in episode.turns for id in turn.tokens_T]
    assert sequence.tokens_T[sequence.action_T].tolist() == sampled


def test_an_episode_that_a_limit_ends_before_an_answer_has_no_reward_and_is_wrong(kept_renderer):
    renderer = kept_renderer("smollm2")
    client = Scripted(renderer, *[called(GOOD)] * 3)
    player = Player(renderer, 200, Limits(max_turns=3))
    question = Question("1 + 2?", "3", Is(), tools=(add,))
    (episode,) = asyncio.run(player.group(question, 1, Sampler(client, 0), (0,)))
    assert (episode.reward, episode.correct, episode.stop_reason) == (0.0, False, "max_turns")
    assert episode.metrics == {"tool_calls": 3, "failed_tool_calls": 0}


def test_a_call_that_was_cut_off_is_told_so_and_the_episode_goes_on(kept_renderer):
    renderer = kept_renderer("smollm2")
    client = Scripted(renderer, "well\n<tool_call>\n" + GOOD, "3<|im_end|>")
    question = Question("1 + 2?", "3", Is(), tools=(add,))
    (episode,) = asyncio.run(Player(renderer, 200, Limits()).group(question, 1, Sampler(client, 0), (0,)))
    assert episode.messages[1]["content"] == "well" and episode.reward == 1.0
    assert episode.messages[2]["content"] == "error: this is no call that can be read: the call isn't closed"


def test_without_tools_what_looks_like_a_call_is_text(kept_renderer):
    renderer = kept_renderer("smollm2")
    (episode,) = asyncio.run(
        Player(renderer, 200, Limits()).group(
            Question("?", "3", Is()), 1, Sampler(Scripted(renderer, called(GOOD)), 0), (0,)
        )
    )
    assert episode.messages[-1] == {"role": "assistant", "content": called(GOOD).removesuffix("<|im_end|>")}
    assert episode.metrics == {} and episode.reward == 0.0


@pytest.mark.parametrize("id", ["smollm2", "chatml_tools"])
def test_smollm2_with_tools_but_none_declared_renders_as_chatml_always_did(id, kept_tokenizer):
    renderer = get_renderer(id, kept_tokenizer("smollm2"))
    plain = get_renderer(id, kept_tokenizer("smollm2"), tools=False)
    talk = [{"role": "user", "content": "1 + 2?"}, {"role": "tool", "content": "3"}]
    assert renderer.build_generation_prompt(talk) == plain.build_generation_prompt(talk)
    with pytest.raises(RendererError, match="renderer=core/chatml_tools has one"):
        plain.build_generation_prompt(talk, tools=[tools.describe(add)])


def test_what_the_page_about_tools_says_is_so():
    page = (Path(__file__).parents[1] / "docs" / "05-tools.md").read_text()
    question, safe = (
        compile(block, "05-tools.md", "exec") for block in re.findall(r"```python.*?\n(.*?)```", page, re.S)
    )
    names: dict[str, Any] = {"__name__": "page"}
    exec(question, names)
    exec(safe, names)
    (declared,) = re.findall(r"```json\n(.*?)```", page, re.S)
    assert tools.describe(names["capital"]) == json.loads(declared)
    assert [tool.__name__ for tool in names["question"].tools] == ["capital"]
    calls = [
        ask("town", "{}"),
        *[ask("capital", a) for a in ('{"country": 3}', "{}", '{"country": "Atlantis"}')],
    ]
    for message in asyncio.run(tools.call(reply(*calls), [names["capital"]])):
        assert f"`{message['content']}`" in page

    async def main():
        env = names["Safe"](5)
        await env.start()
        first = await env.step(reply(ask("turn", '{"steps": 2}')))
        return first, await env.step(reply())

    first, last = asyncio.run(main())
    assert first.messages[0]["content"] == "click" and (last.reward, last.correct, last.done) == (
        1.0,
        True,
        True,
    )
    assert f"after {tools.MAX_RESULT:,} characters" in " ".join(page.split())
    assert f"{tools.MAX_LINE} characters at most" in page and f"more than {tools.MAX_CALLS} calls" in page
