"""Supervised data: where in it a step is, what is no data, and what is shown of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import chz
import pytest

from cookbook.errors import ConfigError
from cookbook.kinds import BackendConfig, DatasetConfig
from cookbook.rendering import load_tokenizer
from cookbook.sl import Conversations, SLConfig, held_out_row, rows_of


@chz.chz
class Offline(BackendConfig):
    """The tiny model's tokenizer, and nothing to train."""

    folder: Path = Path()

    def connect(self, run_dir):
        raise AssertionError("data need no service")

    def tokenizer(self, model):
        return load_tokenizer(self.folder)


@chz.chz
class Talks(DatasetConfig):
    train: Any = ()

    def rows(self, split):
        return self.train if split == "train" else ()


def talk(reply, question="?"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


TRAIN = [talk(reply) for reply in ("a", "bb", "ccc", "dddd", "eeeee")]


def config(tiny_model, **values):
    defaults = {
        "data": Talks(train=TRAIN),
        "model": "tiny",
        "renderer": "core/chatml",
        "backend": Offline(folder=tiny_model),
        "batch_size": 2,
    }
    return SLConfig(**(defaults | values))


def said(batches, tokenizer):
    """The first letter of the reply of each example."""
    return [tokenizer.decode(e.tokens_T.tolist()).split("assistant\n")[1][0] for b in batches for e in b]


def test_each_conversation_comes_once_an_epoch_in_another_order(tiny_model, chatml, tokenizer):
    conversations = Conversations(config(tiny_model, epochs=3), TRAIN, chatml)
    batches = [conversations.batch(step) for step in range(conversations.steps)]
    assert [len(batch) for batch in batches] == [2] * 7 + [1]  # the epochs lie end to end
    seen = said(batches, tokenizer)
    orders = [seen[:5], seen[5:10], seen[10:]]
    assert all(sorted(order) == list("abcde") for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert [conversations.epoch(step) for step in (0, 4, 7)] == [0.4, 2.0, 3.0]
    other = Conversations(config(tiny_model, epochs=3, seed=1), TRAIN, chatml)
    assert said(map(other.batch, range(8)), tokenizer) != seen


def test_held_out_conversations_that_are_cut_off_have_no_loss(tiny_model, chatml, tokenizer):
    cfg = config(tiny_model, max_length=3)
    row = held_out_row([Conversations(cfg, TRAIN, chatml).example(0)], [], tokenizer)
    assert "nll" not in row and "bits_per_byte" not in row and row["n"] == 1


def test_an_empty_split_has_no_training_conversations(tiny_model, chatml):
    with pytest.raises(ConfigError, match="Talks has no training conversations"):
        Conversations(config(tiny_model), rows_of(Talks(), "train"), chatml)


def test_only_the_last_reply_is_trained_where_that_is_asked_for(tiny_model, chatml):
    row = talk("aaa") + talk("b")
    for train_on, n in (("last_assistant_message", 2), ("all_assistant_messages", 6)):
        example = Conversations(config(tiny_model, train_on=train_on), [row], chatml).example(0)
        assert example.weights_T.sum() == n


class NoLength:
    def __iter__(self):
        return (talk(str(i)) for i in range(4))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (None, r"Talks.rows\('train'\) gave NoneType, not conversations"),
        (3, "gave int, not conversations"),
        ("hello", "holds str, not lists of messages"),
        (["hello"], "holds str, not lists of messages"),
        ([{"messages": []}], "holds dict, not lists of messages"),
        ({"train": TRAIN}, "gave dict, not conversations"),
    ],
)
def test_rows_that_are_no_conversations_are_refused(given, line):
    with pytest.raises(ConfigError, match=line):
        rows_of(Talks(train=given), "train")


def test_rows_without_a_length_are_read_only_as_far_as_needed():
    assert rows_of(Talks(train=NoLength()), "train") == [talk(str(i)) for i in range(4)]
    assert rows_of(Talks(train=NoLength()), "train", 2) == [talk("0"), talk("1")]
    assert rows_of(Talks(train=(talk(str(i)) for i in range(9))), "train", 1) == [talk("0")]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ([{"role": "user", "content": "?"}], "RendererError: .* trains nothing of this conversation"),
        ([{"role": "assistant"}], "RendererError: messages.0. is {'role': 'assistant'}, not"),
        ([{"role": "assistant", "content": None}], "RendererError: messages.0."),
        (["hello"], "RendererError: messages.0. is 'hello', not {'role': "),
        (
            [{"role": "assistant", "content": [{"type": "audio"}]}],
            "RendererError: .* has the part {'type': 'audio'}",
        ),
    ],
)
def test_a_conversation_that_can_not_be_said_is_named_by_its_number(tiny_model, chatml, row, line):
    conversations = Conversations(config(tiny_model, batch_size=3), [talk("a"), row, talk("b")], chatml)
    with pytest.raises(ConfigError, match=rf"conversation 1 \(from 0\): {line}"):
        conversations.batch(0)


def test_a_dry_run_shows_each_token_with_its_weight(tiny_model):
    text = asyncio.run(config(tiny_model, data=Talks(train=[talk("a")])).dry_run())
    table = [line.split(maxsplit=2)[1:] for line in text.splitlines()[3:] if "'" in line]
    assert table[-2:] == [["1.0", "'a'"], ["1.0", "'<|im_end|>'"]]
    assert {weight for weight, _ in table[:-2]} == {"0.0"}
    assert "the first step of 1: 1 conversations" in text and "of which 2 are learned" in text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"epochs": 0}, "epochs=0: must be 1 or more"),
        ({"ahead": -1}, "ahead=-1: must be 0 or more"),
        ({"max_length": 1}, "max_length=1: must be 2 or more"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(tiny_model, values, line):
    with pytest.raises(ConfigError, match=line):
        config(tiny_model, **values)


def test_clipping_a_summed_gradient_is_warned_of(tiny_model):
    assert "grad_clip" in config(tiny_model, grad_clip=1.0, reduction="token_sum").warnings()[0]
    assert config(tiny_model, grad_clip=1.0).warnings() == []
