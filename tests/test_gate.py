"""How many episodes play at once, and who goes first."""

from __future__ import annotations

import asyncio

import pytest

from cookbook import Step
from cookbook.backends.base import Sampler, together
from cookbook.rollout import Limits, Player
from cookbook.schedule import Gate


class Room:
    """Who is inside a gate, who came in when, and how many were there at most."""

    def __init__(self, places):
        self.gate = Gate(places)
        self.inside, self.entered, self.most = 0, [], 0
        self.doors = {}

    def guest(self, order, n=1):
        """A task that goes in, and out again when its door is opened."""
        self.doors[order] = asyncio.Event()
        return asyncio.create_task(self._visit(order, n))

    async def _visit(self, order, n):
        async with self.gate.admit(n, order):
            self.entered.append(order)
            self.inside += n
            self.most = max(self.most, self.inside)
            try:
                await self.doors[order].wait()
            finally:
                self.inside -= n


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


async def ended(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_no_more_go_in_than_there_are_places_and_the_earliest_goes_first():
    async def main():
        room = Room(2)
        orders = [(1, 0), (0, 9), (0, 2), (0, 1), (2, 0)]
        tasks = [room.guest(order) for order in orders]
        await settled()
        assert room.entered == [(1, 0), (0, 9)]  # who found it empty
        room.doors[1, 0].set()
        await settled()
        room.doors[0, 9].set()
        await settled()
        room.doors[0, 2].set()
        room.doors[0, 1].set()
        room.doors[2, 0].set()
        await asyncio.gather(*tasks)
        return room

    room = asyncio.run(main())
    assert room.entered == [(1, 0), (0, 9), (0, 1), (0, 2), (2, 0)]
    assert room.most == 2


def test_without_places_all_go_in_at_once():
    async def main():
        room = Room(0)
        tasks = [room.guest((i,), n=3) for i in range(5)]
        await settled()
        assert room.entered == [(i,) for i in range(5)]
        await ended(tasks)

    asyncio.run(main())


def test_who_stops_waiting_gives_no_place_away_and_takes_none():
    async def main():
        room = Room(1)
        first, second, third = (room.guest((i,)) for i in range(3))
        await settled()
        await ended([second])
        assert room.entered == [(0,)]  # a place that nobody held came free for nobody
        room.doors[0,].set()
        await settled()
        assert room.entered == [(0,), (2,)]
        fourth = room.guest((3,))
        await settled()
        assert room.entered == [(0,), (2,)] and room.inside == 1
        await ended([third])  # inside: its place is free again
        await settled()
        assert room.entered == [(0,), (2,), (3,)] and room.most == 1
        await ended([first, fourth])

    asyncio.run(main())


def test_who_is_cancelled_on_the_threshold_passes_the_place_on():
    async def main():
        room = Room(1)
        first, second, third = (room.guest((i,)) for i in range(3))
        await settled()
        room.doors[0,].set()
        await first  # the place is the second's now, who hasn't looked up yet
        second.cancel()
        await settled()
        assert (2,) in room.entered and room.most == 1
        await ended([second, third])

    asyncio.run(main())


def test_a_table_of_more_seats_than_places_takes_them_all():
    async def main():
        room = Room(2)
        small = room.guest((0,))
        large = room.guest((1,), n=5)
        later = room.guest((2,))
        await settled()
        assert room.entered == [(0,)]  # the later one would fit, and doesn't overtake
        room.doors[0,].set()
        await settled()
        assert room.entered == [(0,), (1,)]
        room.doors[1,].set()
        await settled()
        assert room.entered == [(0,), (1,), (2,)]
        await ended([small, large, later])

    asyncio.run(main())


@pytest.mark.parametrize("places", [1, 2, 3])
def test_episodes_in_play_are_never_more_than_the_cap_and_go_by_step_group_and_table(
    chatml, fake_client, places
):
    playing, most, started = set(), [0], []

    class Env:
        def __init__(self, place):
            self.place = place

        async def start(self):
            started.append(self.place)
            playing.add(self)
            most[0] = max(most[0], len(playing))
            return [{"role": "user", "content": "?"}]

        async def step(self, reply):
            for _ in range(3):
                await asyncio.sleep(0)
            playing.discard(self)
            return Step(0.0, True)

    class Task:
        def __init__(self, *place):
            self.place, self.tables = place, 0

        def table(self):
            self.tables += 1
            return [Env((*self.place, self.tables - 1))]

    async def main():
        player = Player(chatml, 4, Limits(), gate=Gate(places))
        sampler = Sampler(fake_client(), 0)
        keys = [(step, group) for step in range(2) for group in range(2)]
        groups = await together(player.group(Task(*key), 3, sampler, key, key) for key in keys)
        assert [len(group) for group in groups] == [3] * 4

    asyncio.run(main())
    assert most == [places]
    assert started == sorted(started)
