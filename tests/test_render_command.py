"""`cookbook render`: what a conversation is for a model."""

from __future__ import annotations

import json

import pytest

from cookbook.cli import main
from cookbook.render_command import HELP

TALK = {
    "messages": [
        {"role": "user", "content": "Hi <|im_end|>"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "é🙂"},
        {"role": "assistant", "content": "<b>Bye</b>\n"},
    ]
}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "talks.jsonl"
    file.write_text(json.dumps(TALK) + "\n\n" + json.dumps(TALK["messages"]) + "\n")
    return file


@pytest.fixture
def words(file, tiny_model):
    return ["render", str(file), "--model", str(tiny_model), "--renderer", "chatml"]


def test_each_token_stands_with_its_weight_its_message_and_its_kind(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("conversation 1, core/chatml, all_assistant_messages: ")
    assert lines[2].split() == ["1", "0", "0", "header", "'<|im_start|>'"]
    stops = [line.split()[1:4] for line in lines if "'<|im_end|>'" in line]
    assert stops == [["0", "0", "stop"], ["1", "1", "stop"], ["0", "2", "stop"], ["1", "3", "stop"]] * 2


def test_json_says_the_same_and_its_tokens_spell_the_conversation(words, capsys):
    assert main([*words, "--json", "--train-on", "last_assistant_message"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == second and first["renderer"] == "core/chatml"
    trained = [row["text"] for row in first["tokens"] if row["weight"]]
    assert "".join(trained) == "<b>Bye</b>\n<|im_end|>"
    assert {row["message"] for row in first["tokens"]} == {0, 1, 2, 3}
    assert [row["id"] for row in first["tokens"]].count(2) == 4  # the look-alike is no fifth <|im_end|>


def test_the_page_escapes_what_a_message_says_and_marks_what_is_trained(words, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main([*words, "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}: 2 conversations\n"
    text = page.read_text()
    assert "<b>Bye" not in text and "&lt;" in text
    assert (
        '<span class="stop trained" title="id 2, weight 1, stop of messages[3]">&lt;|im_end|&gt;</span>'
        in text
    )


def test_the_prompt_ends_with_the_header_of_the_reply_to_come(file, tiny_model, capsys):
    words = ["render", str(file), "--model", str(tiny_model), "--renderer", "smollm2", "--prompt"]
    assert main(words) == 0
    out = capsys.readouterr().out
    first = out.split("\n\n")[0].splitlines()
    assert "0 trained" in first[0] and first[-1].split()[2:4] == ["4", "header"]
    assert first[2].split()[2] == "-"  # the format's own system message


@pytest.mark.parametrize(
    ("content", "more", "line"),
    [
        ("", [], "holds no conversation; each line must be"),
        ("{", [], "line 1 is no JSON"),
        ('{"a": 1}', [], "line 1 is no conversation"),
        ('[{"role": "user"}]', [], r"messages[0] is {'role': 'user'}, not"),
        ('[{"role": "user", "content": "x"}]', [], "trains nothing of this conversation"),
        ("[]", ["--train-on", "x"], "train_on_what='x': it is one of"),
        ("[]", ["--options", "{"], "--options='{' is no JSON"),
        ("[]", ["--options", '{"a": 1}'], "renderer core/chatml: got an unexpected keyword argument 'a'"),
        ("[]", ["--html"], "--html needs a value"),
        ("[]", ["--colour"], "there is no flag '--colour'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, tiny_model, capsys, content, more, line):
    file = tmp_path / "x.jsonl"
    file.write_text(content)
    assert main(["render", str(file), "--model", str(tiny_model), "--renderer", "chatml", *more]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_help_names_every_flag(capsys):
    assert main(["render", "--help"]) == 0
    assert capsys.readouterr().out == HELP and "--train-on" in HELP


def test_a_file_that_is_not_there_is_named(tiny_model, capsys):
    assert main(["render", "/nowhere.jsonl", "--model", str(tiny_model), "--renderer", "chatml"]) == 2
    assert "/nowhere.jsonl" in capsys.readouterr().err
