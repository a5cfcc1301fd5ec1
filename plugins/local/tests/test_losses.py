"""The losses' formulas, by hand."""

import math

import pytest
import torch

from cookbook.errors import BackendError
from cookbook_plugin_local.losses import LOSSES, find_loss

# Three tokens that were sampled with probability 0.4, 0.6 and 0.45: rho is 1.25, 0.5 and 2.
PI, MU, ADVANTAGES, MASK = [0.5, 0.3, 0.9], [0.4, 0.6, 0.45], [2.0, -1.0, -3.0], [1.0, 1.0, 0.0]
LN = math.log

BY_HAND = {
    # name: (losses, gradients in log pi)
    "cross_entropy": ([-2 * LN(0.5), LN(0.3), 3 * LN(0.9)], [-2.0, 1.0, 3.0]),
    "importance_sampling": ([-2.5, 0.5, 6.0], [-2.5, 0.5, 6.0]),
    # clipped above: 1.2 x 2; clipped below: 0.8 x -1; above, but the unclipped -6 is the smaller
    "ppo": ([-2.4, 0.8, 6.0], [0.0, 0.0, 6.0]),
    "cispo": ([-2.4 * LN(0.5), 0.8 * LN(0.3), 3.6 * LN(0.9)], [-2.4, 0.8, 3.6]),
    # s = sqrt(1.25 x 0.5) = 0.79057 for all three; the third isn't part of the mean
    "gspo": ([-(2 * 0.625**0.5), 0.8, 2.4], [-(2 * 0.625**0.5), 0.0, 0.0]),
    "dro": (
        [
            -(2 * LN(0.5) - 0.025 * LN(1.25) ** 2),
            -(-LN(0.3) - 0.025 * LN(0.5) ** 2),
            -(-3 * LN(0.9) - 0.025 * LN(2) ** 2),
        ],
        [-(2 - 0.05 * LN(1.25)), -(-1 - 0.05 * LN(0.5)), -(-3 - 0.05 * LN(2))],
    ),
}


def run(loss, pi, **inputs):
    """Each token's loss, and the gradient of their sum in log pi."""
    logp = torch.tensor(pi, dtype=torch.float64).log().requires_grad_()
    x = {name: torch.tensor(values, dtype=torch.float64) for name, values in inputs.items()}
    x = {"datum": torch.zeros(len(pi), dtype=torch.int64), **x}
    for key in loss.optional:
        x.setdefault(key, torch.full((len(pi),), loss.settings[key], dtype=torch.float64))
    losses = loss.formula(logp, {**x, "datum": x["datum"].long()}, loss.settings)
    losses.sum().backward()
    return losses.tolist(), logp.grad.tolist()


def inputs(mu=MU, advantages=ADVANTAGES, mask=MASK):
    return {
        "logprobs": [LN(p) for p in mu],
        "advantages": advantages,
        "weights": advantages,
        "sequence_ratio_mask": mask,
    }


def test_every_loss_has_an_example_here():
    assert set(BY_HAND) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_three_tokens_by_hand(name):
    losses, gradients = run(find_loss(name), PI, **inputs())
    assert losses == pytest.approx(BY_HAND[name][0])
    assert gradients == pytest.approx(BY_HAND[name][1])


# rho from below the clip to above it, and how ppo's objective and its slope in rho then are for A = +-1
CLIPS = [
    (0.5, 1.0, -0.5, 1),
    (0.5, -1.0, 0.8, 0),
    (1.0, 1.0, -1.0, 1),
    (1.0, -1.0, 1.0, 1),
    (2.0, 1.0, -1.2, 0),
    (2.0, -1.0, 2.0, 1),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "open"), CLIPS)
def test_ppo_stops_the_gradient_where_the_clip_is_the_smaller(ratio, advantage, loss, open):
    losses, gradients = run(find_loss("ppo"), [0.4 * ratio], **inputs([0.4], [advantage], [1.0]))
    assert losses == pytest.approx([loss])
    assert gradients == pytest.approx([-open * ratio * advantage])


@pytest.mark.parametrize(("ratio", "advantage", "loss", "open"), CLIPS)
def test_gspo_of_one_token_is_ppo(ratio, advantage, loss, open):
    losses, gradients = run(find_loss("gspo"), [0.4 * ratio], **inputs([0.4], [advantage], [1.0]))
    assert losses == pytest.approx([loss])
    assert gradients == pytest.approx([-open * ratio * advantage])


@pytest.mark.parametrize(("ratio", "clipped"), [(0.5, 0.8), (1.0, 1.0), (2.0, 1.2)])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_clipped_token_keeps_its_gradient_in_cispo(ratio, clipped, advantage):
    losses, gradients = run(find_loss("cispo"), [0.4 * ratio], **inputs([0.4], [advantage], [1.0]))
    assert losses == pytest.approx([-clipped * advantage * LN(0.4 * ratio)])
    assert gradients == pytest.approx([-clipped * advantage])


def test_gspo_takes_the_mean_of_each_datum_by_itself():
    pi, mu = [0.2, 0.4, 0.3, 0.6, 0.5], [0.1, 0.4, 0.3, 0.3, 0.1]
    # s: sqrt(2 x 1) for the first two; 2 for the next two, whose mask leaves the 1 out; 5 for the last
    x = inputs(mu, [1.0, 1.0, 1.0, -1.0, -1.0], [1.0, 1.0, 0.0, 1.0, 1.0])
    losses, gradients = run(find_loss("gspo", {"clip_high_threshold": 3}), pi, **x, datum=[0, 0, 1, 1, 2])
    assert losses == pytest.approx([-(2**0.5), -(2**0.5), -2.0, 2.0, 5.0])
    assert gradients == pytest.approx(losses)


def test_gspo_wants_a_mask_that_counts_some_token():
    x = inputs([0.4, 0.4], [0.0, 1.0], [1.0, 0.0])
    assert run(find_loss("gspo"), [0.4, 0.4], **x)[0] == pytest.approx([0.0, -1.0])
    with pytest.raises(BackendError, match="gspo: a datum has advantages and a sequence_ratio_mask of zeros"):
        run(find_loss("gspo"), [0.4, 0.4], **x, datum=[0, 1])
    x = inputs([0.4, 0.4], [1.0, 0.0], [1.0, 0.0])  # the second has nothing to train, and no ratio either
    assert run(find_loss("gspo"), [0.4, 0.4], **x, datum=[0, 1])[0] == pytest.approx([-1.0, 0.0])


def test_dro_pulls_a_token_without_advantage_back_to_the_sampler():
    losses, gradients = run(find_loss("dro", {"beta": 0.5}), [0.8], **inputs([0.4], [0.0], [0.0]))
    assert losses == pytest.approx([0.25 * LN(2) ** 2])
    assert gradients == pytest.approx([0.5 * LN(2)])


def test_a_token_may_have_a_clip_of_its_own():
    x = inputs([0.4, 0.4], [1.0, 1.0], [1.0, 1.0])
    clips = {"clip_high_threshold": [1.1, 1.5]}
    assert run(find_loss("ppo"), [0.8, 0.8], **x, **clips)[0] == pytest.approx([-1.1, -1.5])
    assert run(find_loss("cispo"), [0.8, 0.8], **x, **clips)[1] == pytest.approx([-1.1, -1.5])
    assert run(find_loss("gspo"), [0.8, 0.8], **x, **clips)[0] == pytest.approx([-1.1, -1.5])


# Settings


def test_the_clip_is_20_percent_and_dros_beta_a_twentieth_unless_set():
    for name in ("ppo", "cispo", "gspo"):
        assert find_loss(name).settings == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    assert find_loss("dro").settings == {"beta": 0.05}


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo"])
def test_one_threshold_may_be_set_alone(name):
    loss = find_loss(name, {"clip_high_threshold": 1.28})
    assert loss.settings == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.28}
    assert LOSSES[name].settings["clip_high_threshold"] == 1.2


def test_a_threshold_moves_the_clip():
    x = inputs([0.4, 0.4], [1.0, -1.0], [1.0, 1.0])
    assert run(find_loss("ppo"), [0.8, 0.2], **x)[0] == pytest.approx([-1.2, 0.8])
    wide = find_loss("ppo", {"clip_low_threshold": 0.3, "clip_high_threshold": math.inf})
    assert run(wide, [0.8, 0.2], **x)[0] == pytest.approx([-2.0, 0.5])


@pytest.mark.parametrize(
    ("name", "config", "line"),
    [
        ("cross_entropy", {"beta": 1}, "cross_entropy takes no loss_fn_config, not 'beta'"),
        ("importance_sampling", {"clip_low_threshold": 0.8}, "importance_sampling takes no loss_fn_config"),
        ("ppo", {"beta": 1}, "ppo takes clip_low_threshold and clip_high_threshold, not 'beta'"),
        ("gspo", {"clip": 0.2}, "gspo takes clip_low_threshold and clip_high_threshold, not 'clip'"),
        ("dro", {"clip_high_threshold": 1.2}, "dro takes beta, not 'clip_high_threshold'"),
        ("dro", {"beta": "much"}, "dro: beta='much' must be a number"),
        ("dro", {"beta": math.nan}, "dro: beta=nan must be a number"),
        ("ppo", {"clip_low_threshold": 1.3}, "clip_low_threshold=1.3 is above clip_high_threshold=1.2"),
        (
            "reinforce",
            {},
            "no loss 'reinforce'; it has cross_entropy, importance_sampling, ppo, cispo, gspo, dro",
        ),
    ],
)
def test_what_a_loss_does_not_take_is_one_line_that_says_what_it_does(name, config, line):
    with pytest.raises(BackendError) as caught:
        find_loss(name, config)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
