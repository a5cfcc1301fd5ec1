"""Scoring given tokens: against transformers, and bits that depend on weights and tokens alone."""

import random

import numpy as np
import pytest
import tinker
import torch

from cookbook.errors import ConfigError
from cookbook.rendering import load_tokenizer
from cookbook_plugin_local import decoding
from cookbook_plugin_local.decoding import Decoder, Kit
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.request import new_request, new_scoring, score_request


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def decoder(model, tokenizer):
    return new_decoder(model, tokenizer)


def new_decoder(model, tokenizer):
    lora, generator = Lora.fresh(model.shape, 4, 6.0, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    return Decoder(Kit(model, tokenizer.decode), lora.snapshot())


def tokens(count, seed):
    return np.random.default_rng(seed).integers(3, 259, count).tolist()


def request(model, ids, last_n=None):
    return score_request(tinker.ModelInput.from_ints(ids), last_n, model.shape)


def sampling(model, ids, n=1, top=0, sample_top=0, last_n=None, **params):
    prompt, params = tinker.ModelInput.from_ints(ids), {"max_tokens": 20, "stop": [], "seed": 0, **params}
    scoring = new_scoring(len(ids), top > 0 or last_n is not None, last_n, top, model.shape)
    sampled = tinker.SamplingParams(**params)
    return new_request(prompt, n, sampled, model.shape, scoring=scoring, sample_top_k=sample_top)


def finish(decoder, *requests):
    for r in requests:
        decoder.add(r)
    while decoder.busy:
        decoder.step()
    return [r.future.result(timeout=0) for r in requests]


@torch.no_grad()
def test_log_probabilities_are_those_of_transformers(hf, model, tokenizer):
    fresh = Lora.fresh(model.shape, 4, 6.0, seed=0)
    decoder = Decoder(Kit(model, tokenizer.decode), fresh.snapshot())
    prompts = [tokens(n, n) for n in (2, 3, 33, 300)]
    for ids, found in zip(prompts, finish(decoder, *[request(model, p) for p in prompts]), strict=True):
        logits = hf(torch.tensor([ids])).logits[0, :-1]
        right = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        assert found[0] is None
        np.testing.assert_allclose(found[1:], right, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_samples_own_log_probabilities_come_out_again_bit_by_bit(folder, tokenizer, dtype, temperature):
    model, prompt = Llama(folder, dtype), tokens(9, 0)
    asked = sampling(model, prompt, n=2, max_tokens=100, temperature=temperature)
    [answer] = finish(new_decoder(model, tokenizer), asked)
    for sequence in answer.sequences:
        [found] = finish(new_decoder(model, tokenizer), request(model, prompt + sequence.tokens))
        assert found[9:] == sequence.logprobs


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequences_bits_do_not_depend_on_its_company(folder, tokenizer, dtype, threads, torch_threads):
    model, r = Llama(folder, dtype), random.Random(5)
    kinds = [
        (tokens(r.choice([1, 2, 7, 31, 60, 128, 200]), i % 30), r.choice([None, None, 1])) for i in range(60)
    ]
    kinds = [(ids, n if len(ids) > 1 else None) for ids, n in kinds] + [(tokens(1100, 0), None)]
    with torch_threads(threads):
        together = finish(new_decoder(model, tokenizer), *[request(model, *kind) for kind in kinds])
        for i in range(0, len(kinds), 6):
            assert finish(new_decoder(model, tokenizer), request(model, *kinds[i])) == [together[i]]


def test_how_many_are_asked_for_changes_no_bit(model, decoder):
    ids = tokens(100, 0)
    [whole] = finish(decoder, request(model, ids))
    for n in (1, 7, 99):
        assert finish(decoder, request(model, ids, n)) == [[None] * (100 - n) + whole[100 - n :]]


def test_a_prompts_and_a_samples_likeliest_tokens_come_with_their_log_probabilities(model, decoder):
    prompt = tokens(12, 3)
    [answer] = finish(decoder, sampling(model, prompt, top=3, sample_top=2, max_tokens=4))
    assert answer.prompt_logprobs[0] is None and answer.topk_prompt_logprobs[0] is None
    [again] = finish(decoder, request(model, prompt))
    assert answer.prompt_logprobs == again
    [sequence] = answer.sequences
    whole = prompt + sequence.tokens
    rows = answer.topk_prompt_logprobs[1:] + sequence.topk_logprobs
    assert len(rows) == 11 + 4
    for at, row in enumerate(rows, start=1):
        told = dict(row)
        [values] = finish(decoder, request(model, [*whole[:at], row[0][0]], 1))
        assert told[row[0][0]] == values[-1] == max(told.values())
        known = answer.prompt_logprobs[at] if at < 12 else sequence.logprobs[at - 12]
        assert told.get(whole[at], known) == known <= row[0][1]


def test_the_last_tokens_alone_may_be_scored_beside_sampling(model, decoder):
    prompt = tokens(80, 3)
    finish(decoder, sampling(model, prompt, max_tokens=2))
    [answer] = finish(decoder, sampling(model, prompt, last_n=5, max_tokens=2))
    [whole] = finish(decoder, request(model, prompt))
    assert answer.prompt_logprobs == [None] * 75 + whole[75:]
    assert answer.prompt_cache_hit_tokens == 64  # of the 74 that need not be fed


def test_what_is_asked_twice_at_once_is_computed_once(model, decoder, monkeypatch):
    fed, portions = [], Decoder._portions
    monkeypatch.setattr(
        Decoder, "_portions", lambda self, room: (fed.append(portions(self, room)), fed[-1])[1]
    )
    a, b = tokens(5, 0), tokens(6, 1)
    first, second, third, last = finish(
        decoder, *[request(model, ids) for ids in (a, b, a)], request(model, a, 2)
    )
    assert [count for _, count in fed[0]] == [5, 6, 5]
    assert first == third != second
    assert first is not third  # each caller has a list of its own
    assert last == [None] * 3 + first[3:]


def test_a_pass_is_bounded_and_what_came_first_is_answered_first(model, decoder, monkeypatch):
    monkeypatch.setattr(decoding, "_PASS_TOKENS", 10)
    asked = [request(model, tokens(n, i)) for i, n in enumerate([4, 6, 1, 30, 4])]
    for r in asked:
        decoder.add(r)
    done = []
    while decoder.busy:
        decoder.step()
        done.append([r.future.done() for r in asked].count(True))
    assert done == [2, 3, 3, 3, 5]  # 4 + 6; 1 and 9 of the 30; 10; 10; the last 1 and 4


def test_a_prompt_of_one_token_has_nothing_to_say(model, decoder):
    assert finish(decoder, request(model, [5])) == [[None]]


def test_a_cancelled_request_is_not_computed(model, decoder, monkeypatch):
    gone, stays = request(model, tokens(5, 0)), request(model, tokens(5, 1))
    for r in (gone, stays):
        decoder.add(r)
    gone.future.cancel()
    fed, portions = [], Decoder._portions
    monkeypatch.setattr(
        Decoder, "_portions", lambda self, room: (fed.append(portions(self, room)), fed[-1])[1]
    )
    decoder.step()
    assert [prompt.tokens for prompt, _ in fed[0]] == [tuple(tokens(5, 1))]
    assert len(stays.future.result(timeout=0)) == 5
    only = request(model, tokens(5, 2))
    decoder.add(only)
    only.future.cancel()
    decoder.step()
    assert fed[1:] == [[]]
    assert not decoder.busy


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


def test_top_k_of_the_vocabulary_at_most_and_last_n_with_logprobs_only(model):
    with pytest.raises(ConfigError, match="topk_prompt_logprobs=289: must be from 0 to 288"):
        new_scoring(5, True, None, 289, model.shape)
    with pytest.raises(ConfigError, match="prompt_logprobs_last_n=2 needs include_prompt_logprobs"):
        new_scoring(5, False, 2, 0, model.shape)
