"""What a row's bits rest on: numbers of rows that round alike, forms of attention that hold."""

import pytest
import torch
import torch.nn.functional as F

from cookbook_plugin_local import cached_attention, ops, row_ops
from cookbook_plugin_local.cached_attention import FORMS, Form, capacity, find_form
from cookbook_plugin_local.row_ops import alike, even, split

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def nothing_is_known():
    alike.cache_clear()
    yield
    alike.cache_clear()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(192, 64), (960, 576), (576, 1536), (4096, 96)])
def test_a_row_comes_out_the_same_among_any_number_of_rows(shape, dtype, threads, packed, torch_threads):
    """On the processor that runs this, with the sizes of small and real models."""
    generator = torch.Generator().manual_seed(1)
    plain = torch.randn(shape, generator=generator).to(dtype)
    weight = row_ops.packed(plain) if packed else plain
    x = torch.randn(700, shape[1], generator=generator).to(dtype)
    with torch_threads(threads):
        alone = torch.cat([row_ops.product(row[None], weight) for row in x[::70]])
        torch.testing.assert_close(
            alone, F.linear(x[::70], plain), atol=1e-3 if dtype == torch.float32 else 0.5, rtol=0.02
        )
        for n in (2, 3, 17, 33, 64, 100, 257, 700):
            parts = torch.cat([row_ops.product(part, weight) for part in x.split(n)])
            assert torch.equal(parts[::70], alone)


def test_sizes_that_round_otherwise_are_not_used(monkeypatch):
    """A product library whose small products differ from its large ones, and those of 24 by place."""
    seen, linear = [], F.linear

    def unlike(x, weight):
        seen.append(len(x))
        y = linear(x, weight)
        if len(x) == 24:
            y[0] += 1
        return y + (1 if len(x) < 4 else 2 if len(x) > 64 else 0)

    monkeypatch.setattr(F, "linear", unlike)
    weight = torch.randn(8, 16)
    assert alike(8, 16, torch.float32, torch.get_num_threads(), False) == (4, 8, 16, 32, 48, 64)
    seen.clear()
    row_ops.product(torch.randn(150, 16), weight)
    assert seen == [64, 64, 32]
    seen.clear()
    row_ops.product(torch.randn(1, 16), weight)
    assert seen == [4]


def test_where_no_sizes_round_alike_one_is_always_taken(monkeypatch):
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, weight: linear(x, weight) + len(x))
    assert alike(8, 16, torch.float32, torch.get_num_threads(), False) == (16,)


@pytest.mark.parametrize(
    ("n", "parts"),
    [(0, []), (1, [1]), (4, [4]), (6, [6]), (9, [8, 1]), (31, [31]), (33, [32, 1]), (500, [500])],
)
def test_rows_are_split_into_sizes_with_little_padding(n, parts):
    assert split(n, (4, 8, 32, 1000)) == parts


def test_rows_are_evened_to_sizes_that_are_tried():
    assert [even(n) for n in (1, 3, 5, 25, 32, 33, 1000)] == [1, 4, 8, 32, 32, 64, 1024]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_parts_of_a_layer_are_those_of_training(dtype):
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.02}
    x, heads, angle = draw(70, 64), draw(70, 6, 16).to(dtype), draw(70, 1, 8)
    cos, sin = angle.cos(), angle.sin()
    angles = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    weights = draw(96, 64).to(dtype), draw(8, 64).to(dtype), draw(96, 8).to(dtype)
    for name, args in {
        "norm": (x, draw(64), 1e-5, dtype),
        "rotate": (heads, *angles),
        "gate": (x.to(dtype),),
        "linear": (x.to(dtype) / 8, *weights),
    }.items():
        torch.testing.assert_close(getattr(row_ops, name)(*args), getattr(ops, name)(*args), **close)
    per_head = heads.float(), draw(6, 16), 1e-5, dtype
    torch.testing.assert_close(row_ops.norm(*per_head), ops.norm(*per_head), **close)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_gates_bits_do_not_depend_on_how_threads_share_it(threads, torch_threads):
    gate_up = torch.randn(333, 2 * 300, generator=torch.Generator().manual_seed(3))
    with torch_threads(1):
        alone = torch.cat([row_ops.gate(row[None]) for row in gate_up])
    with torch_threads(threads):
        assert torch.equal(row_ops.gate(gate_up), alone)


def test_a_form_that_does_not_hold_is_not_taken(model, monkeypatch):
    tried = []

    def holds(form, q, kv):
        tried.append(form)
        return False

    monkeypatch.setattr(cached_attention, "_holds", holds)
    cached_attention._first_that_holds.cache_clear()
    assert find_form(model.shape, model.dtype, model.device) == FORMS[-1]
    assert tried == list(FORMS[:-1])
    cached_attention._first_that_holds.cache_clear()


def test_a_form_that_lets_neighbours_in_is_found_out(model, monkeypatch):
    """Attention whose bits depend on how many queries share a key head."""
    flash = cached_attention._flash

    def unlike(q, *args, **kwargs):
        out, lse = flash(q, *args, **kwargs)
        return out + q.shape[2] % 32, lse

    monkeypatch.setattr(cached_attention, "_flash", unlike)
    cached_attention._first_that_holds.cache_clear()
    assert find_form(model.shape, torch.float32, model.device) == Form(32, 32)
    cached_attention._first_that_holds.cache_clear()


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 40000, 70000])
def test_shares_do_not_depend_on_where_a_pair_stands(size):
    """Their exponentials come from vector code alone: what is left over would round otherwise."""
    generator = torch.Generator().manual_seed(4)
    old, new = torch.randn(size, generator=generator), torch.randn(size, generator=generator) * 5
    whole = cached_attention._weighed(old, new)
    shifted = cached_attention._weighed(old.roll(5), new.roll(5))
    for found, moved in zip(whole, shifted, strict=True):
        assert torch.equal(found, moved.roll(-5))
    torch.testing.assert_close(whole[1] + whole[2], torch.ones(size))
    nothing = cached_attention._weighed(old, torch.full_like(old, float("-inf")))
    assert torch.equal(nothing[0], old) and (nothing[1] == 1).all() and not nothing[2].any()


def test_caches_end_where_blocks_of_keys_end():
    lengths = [1, 128, 129, 256, 257, 512, 513, 1024, 1025]
    assert [capacity(n) for n in lengths] == [128, 128, 256, 256, 512, 512, 1024, 1024, 1536]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_slowest_form_always_holds(model, dtype, threads, torch_threads):
    generator = torch.Generator().manual_seed(0)
    s = model.shape
    heads = s.heads, 2 * s.kv_heads
    q, kv = (torch.randn(600, h, s.head_dim, generator=generator).to(dtype) for h in heads)
    with torch_threads(threads):
        assert cached_attention._holds(FORMS[-1], q, kv)
        assert isinstance(find_form(s, dtype, model.device), Form)
