"""Scoring given tokens: against transformers, and bits that depend on weights and tokens alone."""

import random

import numpy as np
import pytest
import tinker
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from cookbook.errors import ConfigError
from cookbook.rendering import load_tokenizer
from cookbook_plugin_local import scoring
from cookbook_plugin_local.decoding import DECODE_ROWS, PREFILL_ROWS, Decoder, new_request
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.scoring import Scorer, new_score_request


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def scorer(model, tokenizer):
    return Scorer(new_decoder(model, tokenizer))


def new_decoder(model, tokenizer):
    lora, generator = Lora.fresh(model.shape, 4, 6.0, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    return Decoder(model, lora.snapshot(), tokenizer.decode)


def tokens(count, seed):
    return np.random.default_rng(seed).integers(3, 259, count).tolist()


def request(model, ids, last_n=None):
    return new_score_request(tinker.ModelInput.from_ints(ids), last_n, model.shape)


def finish(scorer, *requests):
    for r in requests:
        scorer.add(r)
    while scorer.busy:
        scorer.step()
    return [r.future.result(timeout=0) for r in requests]


@torch.no_grad()
def test_log_probabilities_are_those_of_transformers(folder, model, tokenizer):
    hf, fresh = (
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32),
        Lora.fresh(model.shape, 4, 6.0, seed=0),
    )
    scorer = Scorer(Decoder(model, fresh.snapshot(), tokenizer.decode))
    prompts = [tokens(n, n) for n in (2, 3, 33, 300)]
    for ids, found in zip(prompts, finish(scorer, *[request(model, p) for p in prompts]), strict=True):
        logits = hf(torch.tensor([ids])).logits[0, :-1]
        right = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        assert found[0] is None
        np.testing.assert_allclose(found[1:], right, atol=1e-4)


def test_a_samples_own_log_probabilities_come_out_again(model, tokenizer):
    decoder = new_decoder(model, tokenizer)
    prompt = tokens(9, 0)
    params = tinker.SamplingParams(max_tokens=20, stop=[], seed=0, temperature=0.7)
    asked = new_request(tinker.ModelInput.from_ints(prompt), 2, params, model.shape)
    decoder.add(asked)
    while decoder.busy:
        decoder.step()
    for sequence in asked.future.result(timeout=0).sequences:
        [found] = finish(Scorer(decoder), request(model, prompt + sequence.tokens))
        np.testing.assert_allclose(found[9:], sequence.logprobs, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequences_bits_do_not_depend_on_its_company(folder, tokenizer, dtype, threads, torch_threads):
    model, r = Llama(folder, dtype), random.Random(5)
    decoder = new_decoder(model, tokenizer)
    kinds = [
        (tokens(r.choice([1, 2, 7, 31, 60, 128, 200]), i % 30), r.choice([None, None, 1])) for i in range(60)
    ]
    kinds = [(ids, n if len(ids) > 1 else None) for ids, n in kinds] + [(tokens(1100, 0), None)]
    with torch_threads(threads):
        together = finish(Scorer(decoder), *[request(model, *kind) for kind in kinds])
        for i in range(0, len(kinds), 6):
            assert finish(Scorer(decoder), request(model, *kinds[i])) == [together[i]]


def test_every_product_has_fixed_rows(model, scorer, monkeypatch):
    """What keeps company out of the bits on processors and models that round otherwise than these."""
    seen, linear = set(), F.linear
    monkeypatch.setattr(F, "linear", lambda x, weight: (seen.add(len(x)), linear(x, weight))[1])
    finish(scorer, *[request(model, tokens(n, n)) for n in (2, 60, 130, 300)])
    assert seen == {DECODE_ROWS, PREFILL_ROWS}


def test_how_many_are_asked_for_changes_no_bit(model, scorer):
    ids = tokens(40, 0)
    [whole] = finish(scorer, request(model, ids))
    for n in (1, 7, 39):
        assert finish(scorer, request(model, ids, n)) == [[None] * (40 - n) + whole[40 - n :]]


def test_what_is_asked_twice_at_once_is_computed_once(model, scorer, monkeypatch):
    passes, score = [], scorer._score
    monkeypatch.setattr(
        scorer, "_score", lambda sequences: (passes.append(len(sequences)), score(sequences))[1]
    )
    a, b = tokens(5, 0), tokens(6, 1)
    first, second, third, last = finish(
        scorer, *[request(model, ids) for ids in (a, b, a)], request(model, a, 2)
    )
    assert passes == [3]
    assert first == third != second
    assert first is not third  # each caller has a list of its own
    assert last == [None] * 3 + first[3:]


def test_a_pass_is_bounded_and_what_came_first_is_answered_first(model, scorer, monkeypatch):
    monkeypatch.setattr(scoring, "_PASS_TOKENS", 10)
    lengths = [4, 6, 1, 30, 4]  # 4 + 6; 1; 30 alone, though it is too long; 4
    asked = [request(model, tokens(n, i)) for i, n in enumerate(lengths)]
    for r in asked:
        scorer.add(r)
    done = []
    while scorer.busy:
        scorer.step()
        done.append([r.future.done() for r in asked].count(True))
    assert done == [2, 3, 4, 5]


def test_a_prompt_of_one_token_has_nothing_to_say(model, scorer):
    assert finish(scorer, request(model, [5])) == [[None]]


def test_a_cancelled_request_is_not_computed(model, scorer, monkeypatch):
    gone, stays = request(model, tokens(5, 0)), request(model, tokens(5, 1))
    for r in (gone, stays):
        scorer.add(r)
    gone.future.cancel()
    passes, score = [], scorer._score
    monkeypatch.setattr(
        scorer, "_score", lambda sequences: (passes.append(len(sequences)), score(sequences))[1]
    )
    scorer.step()
    assert passes == [1]
    assert len(stays.future.result(timeout=0)) == 5
    only = request(model, tokens(5, 2))
    scorer.add(only)
    only.future.cancel()
    scorer.step()
    assert passes == [1]
    assert not scorer.busy


def test_a_pass_that_breaks_is_heard_by_every_request(model, scorer, monkeypatch):
    waiting = [request(model, tokens(5, i)) for i in range(3)]
    monkeypatch.setattr(scorer, "_score", lambda sequences: 1 / 0)
    for r in waiting:
        scorer.add(r)
    waiting[1].future.cancel()
    with pytest.raises(ZeroDivisionError) as caught:
        scorer.step()
    scorer.abandon(caught.value)
    assert not scorer.busy
    assert [r.future.cancelled() for r in waiting] == [False, True, False]
    assert all(waiting[i].future.exception(timeout=0) is caught.value for i in (0, 2))


@pytest.mark.parametrize(
    ("ids", "last_n", "line"),
    [
        ([], None, "a prompt of 0 tokens"),
        ([5, 288], None, "prompt tokens from 5 to 288: the model has 0 to 287"),
        ([5] * 2049, None, "2049 prompt tokens don't fit in 2048 of context"),
        ([5, 6, 7], 0, "prompt_logprobs_last_n=0: must be from 1 to 2, all tokens but the first"),
        ([5, 6, 7], 3, "prompt_logprobs_last_n=3: must be from 1 to 2"),
    ],
)
def test_what_cannot_be_scored_is_one_line(model, ids, last_n, line):
    with pytest.raises(ConfigError, match=line) as caught:
        request(model, ids, last_n)
    assert "\n" not in str(caught.value)
