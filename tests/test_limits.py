"""What ends an episode that its environment doesn't end, and what an environment that fails does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cookbook import Step
from cookbook.backends.base import Sampler
from cookbook.errors import ConfigError, EnvError
from cookbook.rollout import Limits, Player


class Asks:
    """Asks for ever, or `turns` times, each time in the same words; 1.0 a reply."""

    def __init__(self, turns=99, closed=None):
        self.turns, self.closed = turns, closed if closed is not None else []

    async def start(self):
        return [{"role": "user", "content": "?"}]

    async def step(self, reply):
        self.turns -= 1
        return Step(1.0, self.turns == 0, [{"role": "user", "content": "?"}])

    async def close(self):
        self.closed.append(self)


class Tables:
    def __init__(self, table):
        self.table = table


@pytest.fixture
def play(chatml):
    def play(table, client, size=1, errors="raise", max_tokens=8, **limits):
        player = Player(chatml, max_tokens, Limits(**limits), errors=errors)
        return asyncio.run(player.group(Tables(table), size, Sampler(client, 0), (0,)))

    return play


@pytest.mark.parametrize(
    "name", ["max_turns", "max_episode_tokens", "max_sampled_tokens", "episode_timeout_s"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_more_than_nothing(name, value):
    with pytest.raises(ConfigError, match=rf"limits\.{name}={value}.*: must be more than 0"):
        Limits(**{name: float(value) if name.endswith("_s") else value})


def test_max_turns_ends_an_episode_with_what_it_has(play, fake_client):
    (episode,) = play(lambda: [Asks()], fake_client(), max_turns=3)
    assert (episode.stop_reason, len(episode.turns), episode.reward) == ("max_turns", 3, 3.0)


def test_an_env_that_ends_at_the_limit_ended_itself(play, fake_client):
    (episode,) = play(lambda: [Asks(3)], fake_client(), max_turns=3)
    assert (episode.stop_reason, len(episode.turns)) == ("done", 3)


def test_the_last_reply_has_only_the_room_that_max_sampled_tokens_leaves(play, fake_client):
    client = fake_client()
    (episode,) = play(lambda: [Asks()], client, max_sampled_tokens=5)
    assert client.room == [5, 3, 1]
    assert [len(turn.tokens_T) for turn in episode.turns] == [2, 2, 1]
    assert [turn.stopped for turn in episode.turns] == [True, True, False]
    assert (episode.stop_reason, episode.reward) == ("max_sampled_tokens", 3.0)


def test_the_last_reply_has_only_the_room_that_max_episode_tokens_leaves(play, fake_client):
    client = fake_client()
    (free,) = play(lambda: [Asks(3)], client)
    first, second, third = (len(turn.prompt_T) for turn in free.turns)
    client = fake_client()
    (episode,) = play(lambda: [Asks()], client, max_episode_tokens=third + 1)
    assert client.room == [min(8, third + 1 - n) for n in (first, second, third)]
    assert client.room[-1] == 1
    assert (episode.stop_reason, len(episode.turns)) == ("max_episode_tokens", 3)
    assert all(len(t.prompt_T) + len(t.tokens_T) <= third + 1 for t in episode.turns)


def test_a_reply_that_is_cut_off_at_the_end_says_so(play, fake_client):
    client = fake_client()
    (episode,) = play(lambda: [Asks(1)], client, max_tokens=1)
    assert client.room == [1]
    assert (episode.stop_reason, episode.turns[0].stopped) == ("max_tokens", False)


def test_a_first_prompt_that_is_too_long_has_no_turn_and_no_verdict(play, fake_client):
    client = fake_client()
    (episode,) = play(lambda: [Asks()], client, max_episode_tokens=2)
    assert (episode.stop_reason, episode.turns, episode.reward) == ("max_episode_tokens", [], None)
    assert episode.correct is None and client.samples == []


def test_an_episode_that_takes_too_long_ends_with_what_it_has(play, fake_client):
    class Sleeps(Asks):
        async def step(self, reply):
            if self.turns == 98:
                await asyncio.Event().wait()
            return await super().step(reply)

    closed = []
    (episode,) = play(lambda: [Sleeps(closed=closed)], fake_client(), episode_timeout_s=0.2)
    assert (episode.stop_reason, len(episode.turns), episode.reward) == ("timeout", 2, 1.0)
    assert len(closed) == 1


def test_a_timeout_of_an_envs_own_is_its_own(play, fake_client):
    class Slow(Asks):
        async def step(self, reply):
            raise TimeoutError("the judge")

    with pytest.raises(TimeoutError, match="the judge"):
        play(lambda: [Slow()], fake_client(), episode_timeout_s=60.0)


def test_a_timeout_of_the_samplers_own_is_its_own(play, fake_client):
    async def before(name, version, *facts):
        if name == "sample":
            raise TimeoutError("the service")

    with pytest.raises(TimeoutError, match="the service"):
        play(lambda: [Asks()], fake_client(before), episode_timeout_s=60.0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_turns": 2}, "max_turns"),
        ({"max_sampled_tokens": 4}, "max_sampled_tokens"),
        ({"episode_timeout_s": 0.2}, "timeout"),
    ],
)
def test_a_seat_that_a_limit_ends_takes_its_table_with_it(play, fake_client, limits, reason):
    class Waits(Asks):
        async def step(self, reply):
            await asyncio.Event().wait()

    class Late(Asks):
        async def start(self):
            await asyncio.Event().wait()

    first = Waits if reason == "timeout" else Asks
    episodes = play(lambda: [first(), Asks(1), Late()], fake_client(), **limits)
    assert [e.stop_reason for e in episodes][:2] == [reason, "done"]
    assert episodes[2].stop_reason in ("table", reason)
    assert (episodes[2].turns, episodes[2].reward) == ([], None)


def test_a_seat_that_is_done_leaves_the_others_playing(play, fake_client):
    episodes = play(lambda: [Asks(1), Asks(4)], fake_client())
    assert [(e.stop_reason, len(e.turns)) for e in episodes] == [("done", 1), ("done", 4)]


class Flaky(Asks):
    """Fails in its second reply as often as `left` says, over all its episodes."""

    def __init__(self, left, closed):
        super().__init__(3, closed)
        self.left = left

    async def step(self, reply):
        if self.turns == 2 and self.left:
            raise self.left.pop()
        return await super().step(reply)


def failures(n):
    return [ZeroDivisionError("of the\nenv") for _ in range(n)]


def test_an_env_that_raises_ends_the_run_by_default(play, fake_client, caplog):
    closed, left = [], failures(1)
    with pytest.raises(ZeroDivisionError, match="of the\nenv"):
        play(lambda: [Flaky(left, closed)], fake_client(), size=3)
    assert len(closed) == 3 and caplog.records == []


def test_a_group_in_which_an_env_raised_can_be_dropped(play, fake_client, caplog):
    closed, left = [], failures(1)
    assert play(lambda: [Flaky(left, closed)], fake_client(), size=3, errors="drop_group") == []
    assert len(closed) == 3
    line = "an episode of Tables failed: ZeroDivisionError: of the env; its group is dropped"
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, line)]


@pytest.mark.parametrize("n", [1, 2])
def test_a_group_in_which_an_env_raised_can_be_played_again_from_its_start(play, fake_client, caplog, n):
    def said(episodes):
        return [(e.messages, e.reward, e.seat, len(e.turns)) for e in episodes]

    closed, left, made = [], failures(n), []

    def table():  # the second of three fails
        made.append(len(made) % 3)
        return [Flaky(left if made[-1] == 1 else [], closed)]

    episodes = play(table, fake_client(), size=3, errors="retry")
    calm = play(lambda: [Asks(3)], fake_client(), size=3)
    assert said(episodes) == said(calm)  # the same replies, nothing left of the first attempt
    assert len(closed) == 3 * (n + 1)
    lines = [r.getMessage().rsplit("; ", 1)[1] for r in caplog.records]
    assert lines == ["its group is played again"] * n


def test_a_group_that_fails_a_third_time_is_dropped(play, fake_client, caplog):
    closed, left = [], failures(99)
    assert play(lambda: [Flaky(left, closed)], fake_client(), size=1, errors="retry") == []
    assert len(closed) == 3 and len(left) == 96
    lines = [r.getMessage().rsplit("; ", 1)[1] for r in caplog.records]
    assert lines == ["its group is played again"] * 2 + ["its group is dropped"]


@pytest.mark.parametrize("where", ["table", "start", "close"])
def test_whatever_part_of_an_env_raises_the_group_is_dropped(play, fake_client, caplog, where):
    class Breaks(Asks):
        async def start(self):
            if where == "start":
                raise ZeroDivisionError(where)
            return await super().start()

        async def close(self):
            if where == "close":
                raise ZeroDivisionError(where)

    def table():
        if where == "table":
            raise ZeroDivisionError(where)
        return [Breaks(1)]

    assert play(table, fake_client(), size=2, errors="drop_group") == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("errors", ["raise", "drop_group", "retry"])
def test_a_broken_contract_and_a_sampler_that_fails_always_end_the_run(play, fake_client, errors, caplog):
    class Odd(Asks):
        async def step(self, reply):
            return Step(float("nan"), True)

    async def before(name, version, *facts):
        if name == "sample":
            raise OSError("the sampler is gone")

    with pytest.raises(EnvError, match="Odd gave the reward nan"):
        play(lambda: [Odd()], fake_client(), errors=errors)
    with pytest.raises(OSError, match="the sampler is gone"):
        play(lambda: [Asks()], fake_client(before), errors=errors)
    assert caplog.records == []


@pytest.mark.parametrize("where", ["start", "step", "close", "table"])
@pytest.mark.parametrize("errors", ["raise", "retry"])
def test_an_env_that_exits_is_one_line(play, fake_client, errors, where):
    class Exits(Asks):
        def __init__(self):
            super().__init__(1)
            if where == "table":
                raise SystemExit("no data")

        async def start(self):
            return await self.at("start", super().start)

        async def step(self, reply):
            return await self.at("step", super().step, reply)

        async def close(self):
            await self.at("close", super().close)

        async def at(self, here, call, *args):
            if here == where:
                raise SystemExit("no data")
            return await call(*args)

    with pytest.raises(EnvError) as e:
        play(lambda: [Exits()], fake_client(), errors=errors)
    name = "Tables.table" if where == "table" else f"Exits.{where}"
    assert str(e.value) == f"{name} called sys.exit('no data')"
