"""Sampling: greedy against transformers, and bits that depend on weights, tokens and seed alone."""

import random

import numpy as np
import pytest
import tinker
import torch
from transformers import LlamaForCausalLM

from cookbook.errors import ConfigError
from cookbook.rendering import load_tokenizer
from cookbook_plugin_local import decoding
from cookbook_plugin_local.cache import Prefixes
from cookbook_plugin_local.decoding import Decoder, Kit
from cookbook_plugin_local.distribution import choose
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.losses import find_loss
from cookbook_plugin_local.request import new_request
from cookbook_plugin_local.training import Learner

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EOS = 2


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def models(folder):
    return {name: Llama(folder, dtype) for name, dtype in DTYPES.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["float32"]


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


@pytest.fixture
def new_decoder(model, tokenizer):
    return lambda lora=None: Decoder(Kit(model, tokenizer.decode), lora or small_lora(model))


def small_lora(model, seed=1):
    lora, generator = Lora.fresh(model.shape, 4, 6.0, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    return lora.snapshot()


def tokens(count, seed):
    return np.random.default_rng(seed).integers(3, 259, count).tolist()


def request(model, prompt, seed=0, n=1, **params):
    params = {"max_tokens": 8, "stop": [], "seed": seed, **params}
    ids = tinker.ModelInput.from_ints(prompt)
    return new_request(ids, n, tinker.SamplingParams(**params), model.shape)


def finish(decoder, *requests):
    """The sequences of each request, all of them decoded together."""
    for r in requests:
        decoder.add(r)
    while decoder.busy:
        decoder.step()
    return [bits(r) for r in requests]


def bits(done):
    return [(s.stop_reason, s.tokens, s.logprobs) for s in done.future.result(timeout=0).sequences]


# What comes out


def test_greedy_equals_transformers(folder, model, new_decoder):
    hf, near = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), 0
    hf.generation_config.eos_token_id, length = None, 12
    prompts = [tokens(3 + 2 * i, i) for i in range(20)]
    fresh = Lora.fresh(model.shape, 4, 6.0, seed=0).snapshot()
    answers = finish(
        new_decoder(fresh), *[request(model, p, temperature=0, max_tokens=length) for p in prompts]
    )
    for prompt, [(_, found, logprobs)] in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        out = hf.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        for token, logprob, logits in zip(found, logprobs, out.logits, strict=True):
            best, second = logits[0].topk(2).values
            if best - second < 1e-4:  # either may win; what follows then differs
                near += 1
                break
            assert token == logits[0].argmax()
            assert logprob == pytest.approx(logits[0].log_softmax(-1)[token].item(), abs=1e-4)
    assert near <= 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_trainers_at_any_temperature(model, new_decoder, temperature):
    lora = small_lora(model)
    prompts = [tokens(n, n) for n in (1, 5, 40)]
    asked = [request(model, p, n=3, max_tokens=20, temperature=temperature) for p in prompts]
    data, sampled = [], []
    for prompt, answers in zip(prompts, finish(new_decoder(lora), *asked), strict=True):
        for _, found, logprobs in answers:
            whole = prompt + found
            weights = np.array([0.0] * (len(prompt) - 1) + [1.0] * len(found), dtype=np.float32)
            inputs = {"target_tokens": np.array(whole[1:]), "weights": weights}
            data.append(tinker.Datum(tinker.ModelInput.from_ints(whole[:-1]), inputs))
            sampled.append([0.0] * (len(prompt) - 1) + logprobs)
    trainable = {k: p.clone().requires_grad_() for k, p in lora.parameters.items()}
    learner = Learner(model, Lora(4, 6.0, trainable), 256)
    output = learner.forward_backward(data, find_loss("cross_entropy"))
    for found, right in zip(sampled, output.loss_fn_outputs, strict=True):
        np.testing.assert_allclose(found, right["logprobs"].to_numpy(), atol=1e-4)


def test_samples_have_seeds_of_their_own(model, new_decoder):
    prompt = tokens(5, 0)
    three, one, again, other = finish(
        new_decoder(), *[request(model, prompt, seed, n) for seed, n in [(7, 3), (7, 1), (7, 3), (8, 1)]]
    )
    assert three == again
    assert three[0] == one[0] != other[0]
    assert len({tuple(found) for _, found, _ in three}) == 3


def test_any_integer_is_a_seed(model, new_decoder):
    seeds = [-1, 0, 2**62, 2**63 + 1, 2**63 + 2, 2**64 - 2]
    answers = finish(new_decoder(), *[request(model, [5], seed) for seed in seeds])
    assert len({tuple(found) for [(_, found, _)] in answers}) == len(seeds)


def test_without_a_seed_each_request_is_new(model, new_decoder):
    first, second = finish(new_decoder(), *[request(model, [5], None, max_tokens=16) for _ in range(2)])
    assert first != second


# A request's bits


def company(model, among, longest):
    """Forty other requests of all kinds; some share the prompt."""
    r = random.Random(3)
    lengths = [1, 2, 3, 17, 31, 32, 33, 64, 90]
    others = [
        request(
            model,
            among if i % 8 == 0 else tokens(700 if i == 20 else r.choice(lengths), i),
            seed=i,
            n=r.choice([1, 1, 2, 5]),
            max_tokens=min(longest, r.choice([1, 2, 5, 30, 40])),
            temperature=r.choice([0, 0.7, 1, 1]),
        )
        for i in range(40)
    ]
    return others[:20], others[20:]


@pytest.mark.parametrize(("threads", "longest"), [(1, 40), (2, 5)])  # two threads are slow on busy cores
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_requests_bits_do_not_depend_on_its_company(
    models, tokenizer, dtype, threads, longest, torch_threads
):
    model, prompt = models[dtype], tokens(30, 99)
    lora = small_lora(model)

    def asked():
        return [
            request(model, prompt, seed=5, n=2, max_tokens=longest),
            request(model, prompt[:3], seed=6, max_tokens=min(longest, 12), temperature=0.7),
        ]

    with torch_threads(threads):
        alone = [finish(Decoder(Kit(model, tokenizer.decode), lora), r)[0] for r in asked()]
        crowded = Decoder(Kit(model, tokenizer.decode), lora)
        before, after = company(model, prompt, longest)
        for r in before:
            crowded.add(r)
        for _ in range(3):
            crowded.step()
        ours = asked()
        assert finish(crowded, *ours, *after)[:2] == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_choosing_from_a_large_vocabulary_does_not_depend_on_the_other_rows(threads, torch_threads):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(64, 49152, generator=generator)
    uniforms = torch.rand(64, generator=generator, dtype=torch.float64)
    with torch_threads(threads):
        chosen, logprobs = choose(logits, torch.ones(64), uniforms)
        for i in range(64):
            alone = choose(logits[i : i + 1], torch.ones(1), uniforms[i : i + 1])
            assert (chosen[i], logprobs[i]) == (alone[0][0], alone[1][0])
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[torch.arange(64), chosen], atol=1e-5, rtol=0)


def test_joining_and_leaving_at_random_steps_changes_nothing(model, new_decoder):
    r = random.Random(11)
    kinds = [
        {
            "prompt": tokens(r.choice([1, 2, 10, 31, 60]), i % 9),
            "seed": i,
            "n": r.choice([1, 1, 3]),
            "max_tokens": r.choice([1, 2, 3, 8, 50]),
            "temperature": r.choice([0, 1, 1]),
            "stop": list(range(3, 20)) if i % 2 else [],
        }
        for i in range(50)
    ]
    decoder, waiting = new_decoder(), [request(model, **kind) for kind in kinds]
    together, cancelled = list(waiting), set()
    while waiting or decoder.busy:
        for _ in range(min(len(waiting), r.choice([0, 0, 1, 4]))):
            decoder.add(waiting.pop(0))
        decoder.step()
        if r.random() < 0.1:
            i = r.randrange(len(kinds))
            if together[i].future.cancel():
                cancelled.add(i)
    assert 2 <= len(cancelled) <= 25
    alone = new_decoder()
    for i, kind in enumerate(kinds):
        if i in cancelled:
            assert together[i].future.cancelled()
        else:
            assert bits(together[i]) == finish(alone, request(model, **kind))[0]


def test_a_cancelled_request_leaves_the_others_as_they_were(model, new_decoder):
    decoder = new_decoder()
    gone, never = (request(model, tokens(9, i), i, n=3, max_tokens=100) for i in (1, 2))
    stays = [request(model, tokens(5, i), i, n=2, max_tokens=12) for i in (3, 4)]
    for r in (stays[0], gone, stays[1], never):
        decoder.add(r)
    never.future.cancel()
    for _ in range(3):
        decoder.step()
    assert len(decoder._rows()) == 7
    gone.future.cancel()
    decoder.step()
    assert len(decoder._rows()) == 4
    assert finish(decoder) == []
    assert [bits(r) for r in stays] == [
        finish(new_decoder(), request(model, tokens(5, i), i, n=2, max_tokens=12))[0] for i in (3, 4)
    ]


def test_a_cancelled_request_is_the_last_and_the_decoder_rests(model, new_decoder):
    decoder, only = new_decoder(), request(model, [5], max_tokens=100)
    decoder.add(only)
    decoder.step()
    assert decoder._pools
    only.future.cancel()
    decoder.step()
    assert not decoder.busy and not decoder._pools


def test_two_versions_alive_at_once_give_each_its_own_results(model, new_decoder):
    loras = [small_lora(model, seed) for seed in (1, 2)]
    kinds = [{"prompt": tokens(6, 0), "seed": 3, "n": 2, "max_tokens": 10}] * 2
    alone = [finish(new_decoder(lora), request(model, **kinds[0]))[0] for lora in loras]
    assert alone[0] != alone[1]
    pair = [(new_decoder(lora), request(model, **kind)) for lora, kind in zip(loras, kinds, strict=True)]
    for decoder, asked in pair:
        decoder.add(asked)
    while pair[0][0].busy or pair[1][0].busy:
        for decoder, _ in pair:
            decoder.step()
    assert [bits(asked) for _, asked in pair] == alone


def test_forgetting_prefixes_changes_nothing(model, tokenizer):
    kit, prompts = Kit(model, tokenizer.decode), [tokens(70, i) for i in range(9)]
    block = 2 * model.shape.layers * model.shape.kv_heads * 32 * model.shape.head_dim * 4
    decoder = Decoder(kit, small_lora(model))
    decoder.prefixes = Prefixes(kept_bytes=6 * block)
    first = finish(decoder, *[request(model, p, 1, max_tokens=3) for p in prompts])
    assert len(decoder.prefixes._blocks) == 6
    again = [request(model, p, 1, max_tokens=3) for p in reversed(prompts)]
    assert finish(decoder, *again) == first[::-1]
    hits = [r.future.result().prompt_cache_hit_tokens for r in again]
    assert hits == [64] * 3 + [0] * 6


def test_a_conversation_goes_on_from_what_it_left(model, new_decoder):
    """Two prompts share a beginning, and the second turn's prompt holds the first turn's answer."""
    decoder, common = new_decoder(), tokens(40, 0)
    first = [request(model, common + tokens(20, i), i, max_tokens=50) for i in (1, 2)]
    answers = finish(decoder, *first)
    assert [r.future.result().prompt_cache_hit_tokens for r in first] == [0, 32]
    turns = [list(r.prompt) + found + tokens(5, 9) for r, [(_, found, _)] in zip(first, answers, strict=True)]
    second = [request(model, turn, 7, n=2, temperature=0.7) for turn in turns]
    found = finish(decoder, *second)
    assert [r.future.result().prompt_cache_hit_tokens for r in second] == [96, 96]  # of 60 + 50 + 5
    for turn, answer in zip(turns, found, strict=True):
        assert finish(new_decoder(), request(model, turn, 7, n=2, temperature=0.7)) == [answer]


def test_another_versions_prefixes_are_not_taken(model, tokenizer):
    kit, prompt = Kit(model, tokenizer.decode), tokens(70, 0)
    one, other = (Decoder(kit, small_lora(model, seed), place) for place, seed in enumerate((1, 2)))
    finish(one, request(model, prompt))
    asked = request(model, prompt)
    assert finish(other, asked) == finish(
        Decoder(Kit(model, tokenizer.decode), small_lora(model, 2)), request(model, prompt)
    )
    assert asked.future.result().prompt_cache_hit_tokens == 0


def test_a_prompt_that_many_ask_for_is_fed_once(model, new_decoder, monkeypatch):
    fed, forward = [], Llama.hidden
    monkeypatch.setattr(
        Llama, "hidden", lambda self, ids, *a: (fed.append(len(ids)), forward(self, ids, *a))[1]
    )
    prompt = tokens(30, 0)
    finish(new_decoder(), *[request(model, prompt, i, max_tokens=1) for i in range(8)])
    assert fed == [32]


def test_prompts_that_share_a_beginning_feed_it_once(model, new_decoder, monkeypatch):
    fed, portions = [], Decoder._portions
    monkeypatch.setattr(
        Decoder, "_portions", lambda self, room: (fed.append(portions(self, room)), fed[-1])[1]
    )
    common = tokens(64, 0)
    finish(new_decoder(), *[request(model, common + [i], i, max_tokens=1) for i in range(5, 15)])
    assert sum(count for part in fed for _, count in part) == 65 + 9


def test_a_long_prompt_is_fed_in_portions_beside_what_is_decoded(models, tokenizer, monkeypatch):
    monkeypatch.setattr(decoding, "_PASS_TOKENS", 100)
    for model in models.values():

        def alone(prompt):
            return finish(Decoder(Kit(model, tokenizer.decode), small_lora(model)), request(model, prompt))  # noqa: B023

        decoder, short, long = (
            Decoder(Kit(model, tokenizer.decode), small_lora(model)),
            tokens(9, 0),
            tokens(777, 1),
        )
        first = request(model, short)
        decoder.add(first)
        decoder.step()
        answers = finish(decoder, request(model, long))
        assert [bits(first)] == alone(short)
        monkeypatch.setattr(decoding, "_PASS_TOKENS", 1024)
        assert answers == alone(long)


def test_a_row_moves_as_it_grows(model, new_decoder):
    """Over several lengths of pools, beside rows that stay short."""
    kinds = [{"prompt": tokens(n, n), "seed": n, "max_tokens": m} for n, m in [(3, 700), (60, 9), (500, 30)]]
    together = finish(new_decoder(), *[request(model, **kind) for kind in kinds])
    assert together == [finish(new_decoder(), request(model, **kind))[0] for kind in kinds]


def test_more_samples_than_there_is_room_for_wait(model, new_decoder, monkeypatch):
    monkeypatch.setattr(decoding, "_ROWS", 4)
    decoder, asked = new_decoder(), request(model, tokens(9, 0), 1, n=11, max_tokens=5)
    decoder.add(asked)
    most = 0
    while decoder.busy:
        decoder.step()
        most = max(most, len(decoder._rows()))
    assert most == 4
    monkeypatch.setattr(decoding, "_ROWS", 256)
    assert bits(asked) == finish(new_decoder(), request(model, tokens(9, 0), 1, n=11, max_tokens=5))[0]


def test_no_prompt_begins_while_the_cache_is_full(model, new_decoder, monkeypatch):
    monkeypatch.setattr(decoding, "_CACHE_BYTES", 1)
    decoder, asked = new_decoder(), [request(model, tokens(40, i), i, max_tokens=4) for i in range(3)]
    for r in asked:
        decoder.add(r)
    while decoder.busy:
        decoder.step()
        assert len({id(row.request) for row in decoder._rows()}) <= 1
    assert [bits(r) for r in asked] == [
        finish(new_decoder(), request(model, tokens(40, i), i, max_tokens=4))[0] for i in range(3)
    ]


def test_a_pass_that_breaks_is_heard_by_every_request(model, new_decoder, monkeypatch):
    decoder = new_decoder()
    waiting = [request(model, tokens(4, i), max_tokens=3) for i in range(3)]
    monkeypatch.setattr(decoder, "_forward", lambda: 1 / 0)
    for r in waiting:
        decoder.add(r)
    with pytest.raises(ZeroDivisionError) as caught:
        decoder.step()
    decoder.abandon(caught.value)
    assert all(r.future.exception(timeout=0) is caught.value for r in waiting) and not decoder.busy


def test_a_request_that_breaks_a_step_takes_only_the_unanswered_ones_with_it(model, tokenizer):
    def broken(ids):
        raise RuntimeError("cannot decode")

    decoder = Decoder(Kit(model, broken), small_lora(model))
    done = request(model, [5], max_tokens=1)
    unlucky, cancelled = (request(model, [5], max_tokens=9, stop="x") for _ in range(2))
    for r in (done, unlucky, cancelled):
        decoder.add(r)
    cancelled.future.cancel()
    with pytest.raises(RuntimeError) as caught:
        decoder.step()
    decoder.abandon(caught.value)
    assert bits(done)[0][0] == "length"
    assert unlucky.future.exception(timeout=0) is caught.value
    assert not decoder.busy and not decoder._pools


# The distribution


def grid(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("vocabulary", [5, 256, 300, 1030])
def test_tokens_are_chosen_as_often_as_the_distribution_says(vocabulary, temperature):
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    logits[::5] = float("-inf")
    count = 20_000
    chosen = torch.cat(
        [
            choose(logits.expand(len(u), -1), torch.full((len(u),), temperature), u)[0]
            for u in grid(count).split(2000)
        ]
    )
    # Over an even grid of uniforms an inverse CDF is off by less than one, give or take the rounding.
    expected = count * (logits.double() / temperature).softmax(-1)
    assert (chosen.bincount(minlength=vocabulary) - expected).abs().max() < 1.1
    assert not (chosen % 5 == 0).any()


def test_random_uniforms_pass_a_chi_square_test(model, new_decoder):
    """The first tokens of many samples, through the whole decoder."""
    asked, count = request(model, [5, 6], seed=0, n=2000, max_tokens=1), 2000
    [answers] = finish(new_decoder(), asked)
    found = np.bincount([found[0] for _, found, _ in answers], minlength=288)
    logprob = {found[0]: logprobs[0] for _, found, logprobs in answers}
    likely = [t for t in logprob if count * np.exp(logprob[t]) >= 5]
    assert len(likely) > 50
    expected = count * np.exp([logprob[t] for t in likely])
    square = ((found[likely] - expected) ** 2 / expected).sum()
    assert abs(square - len(likely)) < 4 * (2 * len(likely)) ** 0.5


@pytest.mark.parametrize("vocabulary", [3, 256, 300, 600])
@pytest.mark.parametrize("possible", ["first", "last", "middle", "second block's last"])
def test_the_edges_of_the_unit_interval_never_choose_the_impossible(vocabulary, possible):
    at = {"first": 0, "last": -1, "middle": vocabulary // 2, "second block's last": min(511, vocabulary - 1)}
    logits = torch.full((vocabulary,), float("-inf"))
    logits[at[possible]] = 3.0
    logits[(at[possible] + 1) % vocabulary - vocabulary] = -20.0  # a second one, hardly possible
    uniforms = torch.tensor([0.0, 5e-324, 0.5, np.nextafter(1, 0)], dtype=torch.float64)
    chosen, logprobs = choose(logits.expand(4, -1), torch.ones(4), uniforms)
    assert torch.isfinite(logprobs).all()
    assert chosen[2] == at[possible] % vocabulary
    assert torch.isfinite(logits[chosen]).all()


def test_rounding_at_a_blocks_border_never_chooses_the_impossible():
    for seed in range(20):
        logits = torch.randn(512, generator=torch.Generator().manual_seed(seed))
        logits[250:262] = float("-inf")  # on both sides of the border at 256
        border = logits.double().softmax(-1)[:256].sum()
        uniforms = border * (1 + torch.linspace(-3e-7, 3e-7, 400, dtype=torch.float64))
        chosen, _ = choose(logits.expand(400, -1), torch.ones(400), uniforms)
        assert set(chosen.tolist()) == {249, 262}


def test_every_sample_and_position_has_a_uniform_of_its_own(model, new_decoder, monkeypatch):
    steps, samples, original, drawn = 100, 20, choose, []

    def recording(logits, temperatures, uniforms):
        drawn.append(uniforms.numpy())
        return original(logits, temperatures, uniforms)

    monkeypatch.setattr(decoding, "choose", recording)
    finish(new_decoder(), request(model, [5], seed=1, n=samples, max_tokens=steps))
    u = np.array(drawn)
    assert len(np.unique(u)) == steps * samples
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / (12 * u.size) ** 0.5
    for a, b in [(u[1:], u[:-1]), (u[:, 1:], u[:, :-1])]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size**0.5


def test_rows_of_all_temperatures_are_chosen_side_by_side():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    temperatures, uniforms = torch.tensor([0.0, 1.0, 0.5, 0.0]), torch.full((4,), 0.3, dtype=torch.float64)
    chosen, logprobs = choose(logits, temperatures, uniforms)
    assert chosen[[0, 3]].tolist() == logits.argmax(-1)[[0, 3]].tolist()
    for i in range(4):
        alone = choose(logits[i : i + 1], temperatures[i : i + 1], uniforms[i : i + 1])
        assert (chosen[i], logprobs[i]) == (alone[0][0], alone[1][0])
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[range(4), chosen])


# Where a sequence ends


@pytest.fixture
def script(monkeypatch, new_decoder, model):
    """Samples tokens that the test writes, whatever the model would."""

    def run(written, **params):
        step = iter(written)

        def chosen(logits, temperatures, uniforms):
            return torch.tensor([next(step)]), torch.zeros(1)

        monkeypatch.setattr(decoding, "choose", chosen)
        [[(reason, found, _)]] = finish(new_decoder(), request(model, [5], max_tokens=len(written), **params))
        return reason, found

    return run


def test_a_stop_token_is_part_of_the_tokens(script):
    assert script([10, 11, 12, 13], stop=[12, 40]) == ("stop", [10, 11, 12])


def test_no_stop_given_means_the_models_end_token(script):
    assert script([10, EOS, 12], stop=None) == ("stop", [10, EOS])


def test_an_empty_list_of_stops_never_stops(script):
    assert script([10, EOS, 12], stop=[]) == ("length", [10, EOS, 12])


def test_the_last_token_allowed_may_still_be_the_stop(script):
    assert script([10, 11, 12], stop=[12]) == ("stop", [10, 11, 12])


@pytest.mark.parametrize("stop", ["\n\nUser:", ["nowhere", "\n\nUser:"], ["\n\nUser:", "\n\nUser: "]])
@pytest.mark.parametrize("before", ["", "Hi.", "日本語", "🙂", "é\n"])
def test_a_text_stops_across_token_borders(script, tokenizer, before, stop):
    cut = tokenizer.encode(before + "\n\nUser:")
    assert len(cut) == len((before + "\n\nUser:").encode())
    assert script(cut + tokenizer.encode(" go on"), stop=stop) == ("stop", cut)


@pytest.mark.parametrize("broken", range(1, 4))
def test_a_text_stops_after_half_a_character(script, tokenizer, broken):
    cut = tokenizer.encode("🙂")[:broken] + tokenizer.encode("END")
    assert script(cut + [10], stop="END") == ("stop", cut)


def test_a_text_of_many_bytes_stops_at_its_last_one(script, tokenizer):
    cut = tokenizer.encode("一二。")
    assert script(cut + [10], stop="。") == ("stop", cut)


def test_a_stop_text_in_the_prompt_does_not_count(model, tokenizer, new_decoder):
    asked = request(model, tokenizer.encode("END"), max_tokens=3, stop="END")
    assert finish(new_decoder(), asked)[0][0][0] == "length"


def test_without_max_tokens_the_context_is_filled(model, new_decoder):
    room = 5
    asked = request(model, tokens(model.shape.context - room, 0), max_tokens=None)
    [[(reason, found, _)]] = finish(new_decoder(), asked)
    assert (reason, len(found)) == ("length", room)


@pytest.mark.parametrize(
    ("prompt", "params", "line"),
    [
        ([], {}, "a prompt of 0 tokens"),
        ([5], {"n": 0}, "num_samples=0"),
        ([5] * 2048, {"max_tokens": None}, "2048 prompt tokens and max_tokens=0 don't fit in 2048"),
        ([5] * 2000, {"max_tokens": 49}, "2000 prompt tokens and max_tokens=49 don't fit in 2048"),
        ([5], {"max_tokens": 0}, "max_tokens=0"),
        ([5], {"top_p": 0}, r"top_p=0\.0: must be more than 0, and at most 1"),
        ([5], {"top_p": 1.1}, r"top_p=1\.1"),
        ([5], {"top_k": 0}, "top_k=0: must be 1 or more, or -1 for all tokens"),
        ([5], {"temperature": -0.1}, r"temperature=-0\.1: must be 0"),
        ([5], {"temperature": float("nan")}, "temperature=nan"),
        ([5, 288], {}, "prompt tokens from 5 to 288: the model has 0 to 287"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(model, prompt, params, line):
    with pytest.raises(ConfigError, match=line) as caught:
        request(model, prompt, **params)
    assert "\n" not in str(caught.value)


# Truncation


def allowed(logits, temperature, top_k, top_p):
    """By hand, in float64: temperature first, then the top_k, then the fewest that hold top_p of those."""
    p = (logits.double() / temperature).softmax(-1)
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k if top_k > 0 else len(p)]
    total, held, kept = sum(p[i] for i in order), 0.0, []
    for i in order:
        if kept and held >= top_p * total:
            break
        kept.append(i)
        held += p[i]
    return {i: float(p[i] / held) for i in kept}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, 1.0), (-1, 0.6), (20, 0.8), (1, 1.0), (-1, 1e-6), (300, 0.9)]
)
def test_top_k_and_top_p_cut_the_distribution_after_the_temperature(temperature, top_k, top_p):
    logits, count = 2 * torch.randn(300, generator=torch.Generator().manual_seed(1)), 20_000
    n = torch.full((count,), 1)
    chosen, logprobs = choose(
        logits.expand(count, -1), n * temperature, grid(count), n * top_k, n.double() * top_p
    )
    right = allowed(logits, temperature, top_k, top_p)
    assert set(chosen.tolist()) <= set(right)
    expected = torch.zeros(300, dtype=torch.float64)
    expected[list(right)] = count * torch.tensor(list(right.values()), dtype=torch.float64)
    assert (chosen.bincount(minlength=300) - expected).abs().max() < 1.1
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[chosen])  # raw, whatever was cut


def test_of_equally_likely_tokens_the_lower_ids_stay():
    n = torch.ones(100)
    chosen, _ = choose(torch.zeros(100, 8), n, grid(100), (n * 3).long(), n.double())
    assert set(chosen.tolist()) == {0, 1, 2}


def test_a_row_that_is_cut_changes_no_other(model, new_decoder):
    plain = request(model, tokens(5, 1), 4, max_tokens=20)
    alone = finish(new_decoder(), plain)
    cut = [request(model, tokens(5, i), i, top_k=3, top_p=0.9, max_tokens=20) for i in range(3)]
    together = finish(new_decoder(), *cut, request(model, tokens(5, 1), 4, max_tokens=20))
    assert together[3:] == alone
    again = request(model, tokens(5, 2), 2, top_k=3, top_p=0.9, max_tokens=20)
    assert finish(new_decoder(), again) == [together[2]]
