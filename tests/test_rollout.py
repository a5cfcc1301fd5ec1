"""Playing episodes, and which batch is sampled from which weights."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import numpy as np
import pytest

from cookbook import Grade, Question, Start, Step
from cookbook.backends.base import Sampler, together
from cookbook.data import sequences
from cookbook.errors import ConfigError, EnvError
from cookbook.preview import preview
from cookbook.rollout import Limits, Player
from cookbook.schedule import Rollouts, Stopped


class Letters:
    """Asks for a letter, `turns` times; the reward of each turn is 1.0 for an "a"."""

    def __init__(self, turns=1, closed=None):
        self.turns, self.closed = turns, closed if closed is not None else []

    async def start(self):
        return [{"role": "user", "content": "a letter?"}]

    async def step(self, reply):
        self.turns -= 1
        return Step(
            float(reply["content"] == "a"), self.turns == 0, [{"role": "user", "content": "another?"}]
        )

    async def close(self):
        self.closed.append(self)


class Tables:
    """A task from a function that makes the environments of a table."""

    def __init__(self, table):
        self.table = table


def play(player, task, client, size=1, key=(0,), version=0):
    return asyncio.run(player.group(task, size, Sampler(client, version), key))


@pytest.fixture
def player(chatml):
    return Player(chatml, 8, Limits())


def test_a_question_is_graded_once_and_done(player, fake_client):
    class Is:
        def grade(self, prompt, reply, reference):
            return Grade(reply["content"] == reference)

    episodes = play(player, Question("a letter?", "a", Is()), fake_client(), size=40)
    assert {e.messages[-1]["content"] for e in episodes} == {"a", "b", "c", "d"}
    for e in episodes:
        assert (e.reward, e.correct) == ((1.0, True) if e.messages[-1]["content"] == "a" else (0.0, False))
        assert e.stop_reason == "done" and len(e.turns) == 1


def test_an_async_grader_without_a_verdict_leaves_the_reward_undecided(player, fake_client):
    class Down:
        async def grade(self, prompt, reply, reference):
            return Grade(None, detail="the judge is down")

    (episode,) = play(player, Question("?", None, Down()), fake_client())
    assert episode.reward is None and episode.correct is None


def test_a_grade_is_a_verdict_and_its_reward():
    assert (Grade(True).verdict, Grade(True).reward, Grade(True).correct) == ("right", 1.0, True)
    assert (Grade("wrong").verdict, Grade("wrong").reward, Grade("wrong").correct) == ("wrong", 0.0, False)
    assert (Grade(None).verdict, Grade(None).reward, Grade(None).correct) == ("undecided", None, None)
    assert (Grade("right", 0.5).reward, Grade(None, 0.5).verdict) == (0.5, None)


@pytest.mark.parametrize("verdict, reward", [("correct", None), (0.7, None), ("undecided", 0.0)])
def test_what_is_no_verdict_is_refused(verdict, reward):
    with pytest.raises(EnvError, match="undecided"):
        Grade(verdict, reward)


def test_the_next_prompt_begins_with_the_tokens_that_were_sampled_and_one_sequence_holds_all(
    player, fake_client
):
    (episode,) = play(player, Tables(lambda: [Letters(3)]), fake_client())
    for before, after in zip(episode.turns, episode.turns[1:], strict=False):
        so_far = [*before.prompt_T, *before.tokens_T]
        assert list(after.prompt_T[: len(so_far)]) == so_far
    (sequence,) = sequences(episode.turns)
    assert sequence.action_T.sum() == sum(len(t.tokens_T) for t in episode.turns) == 6
    assert [sequence.tokens_T[sequence.action_T].tolist()] == [[x for t in episode.turns for x in t.tokens_T]]
    assert episode.reward == sum(m["content"] == "a" for m in episode.messages if m["role"] == "assistant")


def test_replies_are_keyed_by_place_and_not_by_the_order_of_arrival(player, fake_client):
    async def slow_first(name, version, *facts):
        for _ in range(50 if len(facts) and facts[0][-1] % 2 else 0):
            await asyncio.sleep(0)

    task = Tables(lambda: [Letters(2), Letters(2)])
    one = play(player, task, fake_client(), size=5)
    other = play(player, task, fake_client(slow_first), size=5)
    assert [e.messages for e in one] == [e.messages for e in other]
    assert [e.seat for e in one] == [0, 1] * 5
    assert len({tuple(t.tokens_T[0] for t in e.turns) for e in one}) > 1
    assert [e.messages for e in play(player, task, fake_client(), size=5, key=(1,))] != [
        e.messages for e in one
    ]


def test_an_episode_that_does_not_end_stops_at_max_turns(chatml, fake_client):
    closed = []
    player = Player(chatml, 8, Limits(max_turns=4))
    (episode,) = play(player, Tables(lambda: [Letters(99, closed)]), fake_client())
    assert len(episode.turns) == 4 and episode.stop_reason == "max_turns" and len(closed) == 1
    with pytest.raises(ConfigError, match=r"limits\.max_turns=0: must be more than 0"):
        Limits(max_turns=0)


def test_a_tasks_score_is_added_to_the_steps_rewards(player, fake_client):
    class Scored(Tables):
        async def score(self, episodes):
            return [0.5, None, 0.0]

    episodes = play(player, Scored(lambda: [Letters()]), fake_client(), size=3)
    plain = play(player, Tables(lambda: [Letters()]), fake_client(), size=3)
    assert [e.reward for e in episodes] == [plain[0].reward + 0.5, None, plain[2].reward]


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", np.float32("nan"), 1j, 10**400])
def test_a_reward_that_is_no_finite_number_names_the_env(player, fake_client, reward):
    class Odd(Letters):
        async def step(self, reply):
            return Step(reward, True)

    with pytest.raises(EnvError, match="Odd gave the reward") as e:
        play(player, Tables(lambda: [Odd()]), fake_client())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (([], 1.0, True, {}), "Gym.step gave tuple, not a cookbook.Step"),
        (Step(1.0, True, correct="yes"), "Gym.step gave correct='yes'"),
        (Step(1.0, True, metrics={"speed": float("nan")}), "Gym.step gave the metric speed=nan"),
        (Step(1.0, True, metrics={"speed": 10**400}), "Gym.step gave the metric speed=1000"),
        (Step(1.0, False), "Gym.step goes on (done=False) without a message to reply to"),
        (Step(1.0, False, "again?"), "Gym.step gave str, not a list of messages"),
        (Step(1.0, False, [{"role": "user"}]), "Gym.step gave a message: it is {'role': 'user'}, not"),
    ],
)
def test_a_step_that_is_not_as_it_should_be_names_the_env(player, fake_client, answer, line):
    class Gym(Letters):
        async def step(self, reply):
            return answer

    with pytest.raises(EnvError) as e:
        play(player, Tables(lambda: [Gym()]), fake_client())
    assert str(e.value).startswith(line) and "\n" not in str(e.value)


def test_whatever_numbers_an_env_gives_an_episode_has_floats(player, fake_client):
    class Gym(Letters):
        async def step(self, reply):
            metrics = {"a": Fraction(1, 2), "b": np.float32(0.5), "c": 3}
            return Step(Fraction(1, 4), True, metrics=metrics)

    (episode,) = play(player, Tables(lambda: [Gym()]), fake_client())
    assert (episode.reward, episode.metrics) == (0.25, {"a": 0.5, "b": 0.5, "c": 3.0})
    assert {type(value) for value in (episode.reward, *episode.metrics.values())} == {float}


def test_a_plain_function_where_an_async_one_belongs_names_the_env(player, fake_client):
    class Gym(Letters):
        def step(self, reply):
            return Step(1.0, True)

    with pytest.raises(EnvError, match=r"Gym\.step is a plain function; write `async def step`"):
        play(player, Tables(lambda: [Gym()]), fake_client())


def test_a_table_without_a_seat_names_the_task(player, fake_client, chatml):
    task = Tables(list)
    with pytest.raises(EnvError, match=r"Tables\.table gave no environment; it gives one a seat"):
        play(player, task, fake_client())
    with pytest.raises(EnvError, match=r"Tables\.table gave no environment"):
        asyncio.run(preview(chatml, [task], 1, 8))


def test_a_close_that_is_a_plain_function_names_the_env(player, fake_client):
    class Gym(Letters):
        def close(self):
            return None

    with pytest.raises(EnvError, match=r"Gym\.close is a plain function; write `async def close`"):
        play(player, Tables(lambda: [Gym()]), fake_client())


def test_a_grader_that_is_a_class_or_gives_no_grade_is_named(player, fake_client):
    class Right:
        def grade(self, prompt, reply, reference):
            return True

    with pytest.raises(EnvError, match=r"Question\(grader=Right\) is a class; write Right\(\)"):
        play(player, Question("?", None, Right), fake_client())
    with pytest.raises(EnvError, match=r"Right\.grade gave True, not a cookbook\.Grade"):
        play(player, Question("?", None, Right()), fake_client())


@pytest.mark.parametrize("start", ["a letter?", {"role": "user", "content": "?"}, None, [None], Start("?")])
def test_a_start_that_is_no_list_of_messages_names_the_env(player, fake_client, start):
    class Gym(Letters):
        async def start(self):
            return start

    with pytest.raises(EnvError, match=r"Gym\.start gave"):
        play(player, Tables(lambda: [Gym()]), fake_client())


def test_a_score_for_another_number_of_episodes_names_the_task(player, fake_client):
    class Scored(Tables):
        async def score(self, episodes):
            return [0.5]

    with pytest.raises(EnvError, match=r"Scored\.score gave 1 rewards for 3 episodes"):
        play(player, Scored(lambda: [Letters()]), fake_client(), size=3)


def test_a_seat_that_reaches_the_limit_takes_its_table_with_it_rather_than_leave_it_waiting(
    chatml, fake_client
):
    closed = []

    class Waits(Letters):
        async def step(self, reply):
            await asyncio.Event().wait()

    player = Player(chatml, 8, Limits(max_turns=2))
    task = Tables(lambda: [Letters(9, closed), Waits(1, closed), Letters(1, closed)])
    episodes = play(player, task, fake_client(), size=2)
    assert [e.stop_reason for e in episodes] == ["max_turns", "table", "done"] * 2
    assert [(e.seat, len(e.turns)) for e in episodes] == [(0, 2), (1, 1), (2, 1)] * 2
    assert len(closed) == 6


def test_envs_that_were_made_are_closed_even_if_none_was_played(player, fake_client):
    closed, made = [], []

    def table():
        if len(made) == 2:
            raise ZeroDivisionError("no third table")
        made.append(Letters(1, closed))
        return [made[-1]]

    with pytest.raises(ZeroDivisionError):
        play(player, Tables(table), fake_client(), size=3)
    assert closed == made and len(made) == 2


def test_an_env_that_raises_ends_its_group_and_every_env_is_closed(player, fake_client):
    closed = []

    class Broken(Letters):
        async def step(self, reply):
            raise ZeroDivisionError("of the env")

    with pytest.raises(ZeroDivisionError, match="of the env"):
        play(player, Tables(lambda: [Letters(9, closed), Broken(1, closed)]), fake_client(), size=3)
    assert len(closed) == 6


def test_tools_of_the_start_reach_the_renderer(player, fake_client):
    class Tooled(Letters):
        async def start(self):
            return Start([{"role": "user", "content": "?"}], tools=[{"name": "f"}])

    with pytest.raises(ValueError, match="no form for tools"):
        play(player, Tables(lambda: [Tooled()]), fake_client())


def test_together_keeps_order_raises_the_first_error_alone_and_cancels_the_rest():
    async def main():
        ended = []

        async def number(n, turns):
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                return n
            finally:
                ended.append(n)

        async def fail():
            raise KeyError("x")

        assert await together(number(n, 9 - n) for n in range(5)) == list(range(5))
        ended.clear()
        with pytest.raises(KeyError, match="x"):
            await together([number(1, 10**9), fail(), number(2, 10**9)])
        assert sorted(ended) == [1, 2] and len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@pytest.mark.parametrize("max_lag", [0, 1, 2, 5])
@pytest.mark.parametrize("start", [0, 3])
def test_batch_b_is_sampled_from_exactly_version_max_0_b_minus_max_lag(max_lag, start):
    async def main():
        played = {}

        async def play(step, group, sampler):
            assert (step, group) not in played
            played[step, group] = sampler.version
            return [step, group]

        rollouts = Rollouts(play, 3, max_lag, range(start, 8), asyncio.Event())
        for version in range(max(0, start - max_lag), start):
            rollouts.publish(Sampler(None, version))  # the older versions that a resume publishes again
        for step in range(start, 8):
            rollouts.publish(Sampler(None, step))
            assert rollouts.sampler(step).version == max(0, step - max_lag)
            assert [part async for part in rollouts.parts(step, 1)] == [[[step, 0], [step, 1], [step, 2]]]
        rollouts.publish(Sampler(None, 8))
        await rollouts.close()
        assert len(asyncio.all_tasks()) == 1
        return played

    played = asyncio.run(main())
    assert played == {(b, g): max(0, b - max_lag) for b in range(start, 8) for g in range(3)}


def test_sampling_runs_ahead_of_training_by_max_lag_batches_and_no_more():
    async def main(max_lag):
        started = set()

        async def play(step, group, sampler):
            started.add(step)

        rollouts = Rollouts(play, 1, max_lag, range(100), asyncio.Event())
        rollouts.publish(Sampler(None, 0))
        for _ in range(20):
            await asyncio.sleep(0)
        await rollouts.close()
        return started

    assert asyncio.run(main(0)) == {0}
    assert asyncio.run(main(2)) == {0, 1, 2}


def test_parts_come_in_index_order_each_as_soon_as_it_is_played():
    async def main():
        go = [asyncio.Event() for _ in range(4)]

        async def play(step, group, sampler):
            await go[group].wait()
            return [group]

        rollouts = Rollouts(play, 4, 0, range(1), asyncio.Event())
        rollouts.publish(Sampler(None, 0))
        parts = rollouts.parts(0, 2)
        go[3].set(), go[2].set(), go[1].set()
        first = asyncio.create_task(anext(parts))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not first.done()  # the second half is played, and waits for its turn
        go[0].set()
        assert await first == [[0], [1]]
        assert await anext(parts) == [[2], [3]]
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
        await rollouts.close()

    asyncio.run(main())


def test_a_run_that_is_asked_to_stop_waits_for_no_more_episodes():
    async def main():
        stop, ended = asyncio.Event(), []

        async def play(step, group, sampler):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(group)

        rollouts = Rollouts(play, 2, 0, range(1), stop)
        rollouts.publish(Sampler(None, 0))
        waits = asyncio.create_task(anext(rollouts.parts(0, 1)))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(Stopped):
            await waits
        await rollouts.close()
        assert sorted(ended) == [0, 1] and len(asyncio.all_tasks()) == 1

    asyncio.run(main())
