"""What `cookbook check` says of popular packages behind the wrapper that comes to mind first."""

from __future__ import annotations

import random

import chz
import pytest

from cookbook import EnvConfig, Grade, Question, Step
from cookbook.testing import check_env

pytestmark = pytest.mark.authors


class Scorer:
    def __init__(self, data, entry):
        self.data, self.entry = data, entry

    def grade(self, prompt, reply, reference):
        reward = self.data.score_answer(reply["content"], self.entry)
        return Grade(reward >= 1.0, float(reward))


@chz.chz
class Naive(EnvConfig):
    """A family of reasoning-gym with the seeds 0 and 1, scored by the family itself."""

    family: str

    def tasks(self, split):
        import reasoning_gym

        data = reasoning_gym.create_dataset(self.family, seed={"train": 0, "test": 1}[split], size=60)
        return [Question(e["question"], e["answer"], Scorer(data, e)) for e in data]


def rules(env):
    return {finding.rule: finding.example for finding in check_env(env).findings}


@pytest.mark.parametrize("family", ["chain_sum", "gcd", "spell_backward"])
def test_the_seeds_of_neighbours_share_their_items(family):
    pytest.importorskip("reasoning_gym")
    assert "59 of 60 held-out tasks (98%) train too" in rules(Naive(family=family))["L2.leak"]


def test_any_word_wins_game_of_life_halting():
    pytest.importorskip("reasoning_gym")
    found = rules(Naive(family="game_of_life_halting"))
    assert "whatever is asked, gets the best reward on 100% of 24 tasks" in found["L3.constant"]


def test_words_break_the_scorer_of_prime_factorization():
    pytest.importorskip("reasoning_gym")
    found = rules(Naive(family="prime_factorization"))
    assert "ValueError" in found.get("L3.crash", found.get("L1.raises", ""))


class Pig:
    """One seat of PigDice; the other rolls."""

    def __init__(self, seed, around):
        self.seed, self.around, self.state = seed, around, None

    def call(self, function):
        """Of the library, with a random state of this game's own where it is careful."""
        if not self.around:
            return function()
        before = random.getstate()
        try:
            if self.state is not None:
                random.setstate(self.state)
            return function()
        finally:
            self.state = random.getstate()
            random.setstate(before)

    async def start(self):
        import textarena

        self.game = textarena.make("PigDice-v0-raw")
        self.call(lambda: self.game.reset(num_players=2, seed=self.seed))
        return [{"role": "user", "content": self.call(self.observation)}]

    def observation(self):
        _, seen = self.game.get_observation()
        return "\n".join(text for _, text, _ in seen)

    async def step(self, reply):
        return self.call(lambda: self.move(reply["content"]))

    def move(self, text):
        done, _ = self.game.step(action=text)
        while not done and self.game.state.current_player_id != 0:
            self.game.get_observation()
            done, _ = self.game.step(action="[roll]")
        if done:
            rewards, _ = self.game.close()
            return Step(float(rewards[0]), done=True)
        return Step(0.0, done=False, messages=[{"role": "user", "content": self.observation()}])


class PigTask:
    def __init__(self, seed, around):
        self.seed, self.around = seed, around

    def table(self):
        return [Pig(self.seed, self.around)]


@chz.chz
class Pigs(EnvConfig):
    reward_range = (-1.0, 1.0)
    careful: bool = False

    def tasks(self, split):
        return [PigTask(i, self.careful) for i in (range(20) if split == "train" else range(20, 30))]


@pytest.mark.parametrize("careful", [False, True], ids=["naive", "careful"])
def test_games_of_pig_disturb_each_other_unless_each_has_its_random_state(careful):
    pytest.importorskip("textarena")
    assert ("L2.interleaved" in rules(Pigs(careful=careful))) is not careful
