"""Conversations: what ships, how it is split, and what is said of a bad file."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources

import pytest

from cookbook.configs import layers_of, settle
from cookbook.errors import ConfigError
from cookbook.registry import find
from cookbook.sl import SLConfig
from cookbook_plugin_chat.conversations import Conversations, read
from cookbook_plugin_chat.recipes import sft

LAYOUT = re.compile(r"Answer: \S.*\nWhy: \S.*\nConfidence: (high|medium|low)\nNext: \S.*[.!?]")


def line(question, kind=None, answer="Yes."):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages} | ({"kind": kind} if kind else {}))


@pytest.fixture
def write(tmp_path):
    """Writes lines to a file, each text or bytes, and gives its path."""

    def write(*lines, end="\n"):
        path = tmp_path / "some.jsonl"
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + end.encode())
        return str(path)

    return write


def questions(rows):
    return [row[0]["content"] for row in rows]


def words(text):
    return re.findall(r"\w+", text.lower())


def said(conversation, role):
    return [message["content"] for message in conversation if message["role"] == role]


def test_what_ships_is_more_than_300_conversations_of_eight_kinds_about_equal():
    kinds = Counter(kind for kind, _ in read(""))
    assert sum(kinds.values()) >= 330 and len(kinds) == 8
    assert min(kinds.values()) >= 40 and max(kinds.values()) <= 45
    assert f" {sum(kinds.values())} in one house style" in find("dataset", "chat/conversations").summary


def test_what_ships_lies_in_the_package():
    data = resources.files("cookbook_plugin_chat") / "conversations.jsonl"
    assert data.is_file() and len(data.read_text("utf-8").splitlines()) == len(read(""))


def test_each_shipped_conversation_alternates_and_ends_with_the_assistant():
    for _, conversation in read(""):
        roles = [message["role"] for message in conversation if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert "system" not in [message["role"] for message in conversation[1:]]
    assert sum(len(said(conversation, "user")) > 1 for _, conversation in read("")) >= 66


def test_each_shipped_reply_has_the_house_style_and_its_length():
    for reply in (text for _, conversation in read("") for text in said(conversation, "assistant")):
        assert LAYOUT.fullmatch(reply), reply
        assert 20 <= len(reply.split()) <= 70, reply


def test_no_two_shipped_conversations_are_alike():
    first, grams = {}, {}
    for i, (_, conversation) in enumerate(read("")):
        asked = said(conversation, "user")
        assert first.setdefault(tuple(words(asked[0])), i) == i, asked[0]
        for text in asked:
            for gram in zip(*(words(text)[j:] for j in range(8)), strict=False):
                assert grams.setdefault(gram, i) == i, gram
    replies = [text for _, conversation in read("") for text in said(conversation, "assistant")]
    assert len(set(replies)) == len(replies)


@pytest.mark.parametrize("held_out", [0.0, 0.1, 0.5])
def test_the_splits_are_disjoint_and_together_everything(held_out):
    sets = [
        Conversations(held_out=held_out, held_out_kinds=("sums", "fact")).rows("train"),
        Conversations(held_out=held_out, held_out_kinds=("sums", "fact")).rows("test"),
        Conversations(held_out=held_out, held_out_kinds=("sums", "fact"), test="kinds").rows("test"),
    ]
    asked = [question for rows in sets for question in questions(rows)]
    assert len(asked) == len(set(asked)) == len(read(""))
    assert bool(sets[1]) == bool(held_out)


def test_no_held_out_kind_is_trained_on_and_no_other_is_in_its_test():
    kind_of = {conversation[0]["content"]: kind for kind, conversation in read("")}
    data = Conversations(held_out_kinds=("choice", "extract"), test="kinds")
    assert {kind_of[q] for q in questions(data.rows("test"))} == {"choice", "extract"}
    assert not {kind_of[q] for q in questions(data.rows("train"))} & {"choice", "extract"}


def test_a_held_out_row_is_held_out_whatever_the_kinds():
    all_kinds, fewer = Conversations(), Conversations(held_out_kinds=("choice",))
    assert set(questions(fewer.rows("test"))) <= set(questions(all_kinds.rows("test")))
    assert set(questions(fewer.rows("train"))) <= set(questions(all_kinds.rows("train")))


def test_the_share_held_out_is_an_option_and_rows_keep_the_order_of_the_file(write):
    path = write(*(line(f"{i}") for i in range(40)))
    for held_out, n in ((0, 0), (0.001, 1), (0.1, 4), (0.25, 10), (0.999, 39)):
        test = questions(Conversations(source=path, held_out=held_out).rows("test"))
        train = questions(Conversations(source=path, held_out=held_out).rows("train"))
        assert len(test) == n and len(train) == 40 - n
        assert train == sorted(train, key=int) and test == sorted(test, key=int)


def test_a_single_row_is_trained_on(write):
    data = Conversations(source=write(line("Why?")))
    assert questions(data.rows("train")) == ["Why?"] and data.rows("test") == []


def test_a_file_of_ones_own_needs_no_kinds_and_no_alternation(write):
    odd = [{"role": r, "content": f"{i}"} for i, r in enumerate(["user", "user", "assistant", "assistant"])]
    path = write(
        "\ufeff" + line("a"), json.dumps({"messages": odd, "id": 7}), line("c\u2028d"), end="\n\n \n"
    )
    rows = Conversations(source=path, held_out=0).rows("train")
    assert questions(rows) == ["a", "0", "c\u2028d"] and rows[1] == odd


def test_windows_line_ends_are_line_ends(write):
    assert len(read(write(line("a") + "\r", line("b") + "\r", "\r"))) == 2


def test_the_file_is_read_when_rows_are_asked_for_and_once(write, monkeypatch):
    data = Conversations(source=write(line("a"), line("b")))
    write(line("c"), line("d"))
    assert set(questions(data.rows("train") + data.rows("test"))) == {"c", "d"}
    write("not JSON")
    assert len(data.rows("train")) == 1


def nothing(**more):
    return json.dumps({"messages": [{"role": "user", "content": "x"}, more]})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "isn't JSON"),
        ("[" * 100_000, "isn't JSON"),
        ("", "is blank"),
        (b"\xef\xbb\xbf" + line("x").encode(), "byte-order mark"),
        (b'{"messages": "\xe4"}', "isn't UTF-8 from byte 14 on"),
        ("[1, 2]", r"is \[1, 2\], not an object"),
        ('{"prompt": "x"}', 'no "messages"'),
        ('{"messages": []}', r'"messages" is \[\]'),
        ('{"messages": {"role": "user"}}', '"messages" is {"role": "user"}'),
        ('{"messages": ["x"]}', r'messages\[0\] is "x"'),
        (nothing(role="assistant"), r"messages\[1\] has no content; it must be a string"),
        (nothing(content="x"), r"messages\[1\] has no role"),
        (nothing(role="assistant", content=None), r"messages\[1\] has the content null"),
        (nothing(role="assistant", content=[{"type": "text"}]), "it must be a string"),
        (nothing(role=1, content="x"), "has the role 1"),
        (nothing(role="bot", content="x"), 'the role "bot"; it must be system, user, assistant'),
        (nothing(role="user", content="x"), "no assistant message"),
        (
            nothing(role="assistant", content=" \n"),
            r"messages\[1\] is an assistant message that says nothing",
        ),
        (nothing(role="assistant", content="\ud83d"), "holds half of a character"),
        (nothing(role="assistant", content="x", weight=0), r"messages\[1\] has weight too"),
        (line("x")[:-1] + ', "kind": 3}', '"kind" is 3; it must be a string'),
        (line("x")[:-1] + ', "kind": null}', '"kind" is null'),
    ],
)
def test_a_bad_line_is_one_line_that_names_the_file_the_number_and_what_is_wrong(write, bad, message):
    data = Conversations(source=write(line("a"), bad, line("c")))
    with pytest.raises(ConfigError, match=rf"^\S*some\.jsonl, line 2: .*{message}[^\n]*$"):
        data.rows("train")


def test_what_is_null_in_a_message_is_as_good_as_absent(write):
    reply = {"role": "assistant", "content": "x", "tool_calls": [], "name": None}
    ((_, conversation),) = read(write(json.dumps({"messages": [reply]})))
    assert conversation == [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_one_line(write, content):
    with pytest.raises(
        ConfigError, match=r"^\S*some\.jsonl holds no conversation; each line must be [^\n]*$"
    ):
        Conversations(source=write(content)).rows("train")


@pytest.mark.parametrize(("name", "reason"), [("absent.jsonl", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, reason):
    with pytest.raises(ConfigError, match=rf"^source=\S+: {reason}[^\n]*; give a JSONL file[^\n]*$"):
        Conversations(source=str(tmp_path / name)).rows("train")


@pytest.mark.parametrize("held_out", [-0.1, 1.0, 1, float("nan")])
def test_held_out_is_a_share(held_out):
    with pytest.raises(ConfigError, match="must be from 0 to less than 1"):
        Conversations(held_out=held_out)


def test_the_test_of_kinds_needs_kinds():
    with pytest.raises(ConfigError, match=r"^test=kinds without held-out kinds: add held_out_kinds=[^\n]*$"):
        Conversations(test="kinds")


def test_an_unknown_kind_names_those_that_there_are(write):
    with pytest.raises(ConfigError, match=r"no kind 'poem'; its kinds are choice, clarify, correct"):
        Conversations(held_out_kinds=("fact", "poem")).rows("test")
    with pytest.raises(ConfigError, match='none of its rows has a "kind"'):
        Conversations(source=write(line("a")), held_out_kinds=("poem",)).rows("train")


def test_something_must_be_left_to_train_on(write):
    path = write(line("a", "x"), line("b", "y"), line("c", "y"))
    data = Conversations(source=path, held_out_kinds=("x", "y"), test="kinds")
    assert len(data.rows("test")) == 3
    with pytest.raises(ConfigError, match=r"held_out_kinds=x,y: no row is left to train on; hold out less"):
        data.rows("train")


def test_there_is_no_third_split():
    with pytest.raises(ValueError, match="'validation'"):
        Conversations().rows("validation")


def test_the_recipe_evaluates_on_kinds_that_it_never_trains_on():
    recipe = sft()
    config = settle(SLConfig, layers_of(recipe)).config
    train, rows, kinds = config.data.rows("train"), config.data.rows("test"), config.evals[0].rows("test")
    assert len(train) > 200 and len(rows) > 20 and len(kinds) > 80
    asked = questions([*train, *rows, *kinds])
    assert len(asked) == len(set(asked)) == len(read(""))
