"""A short run of `make bench-soak`: many gradings in one event loop, one in twenty of them hostile."""

import signal
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def soak():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        import soak_grading

        yield soak_grading


@pytest.fixture(scope="module")
def seen_and_left(soak):
    return soak.whole(2000, hostile_every=20)


def test_2000_gradings_end_and_leave_no_process_and_no_file(seen_and_left):
    seen, left = seen_and_left
    assert sum(seen["verdicts"].values()) == 2000
    assert left == [] and seen["executed"] == 0


def test_no_callback_holds_the_event_loop_for_50_ms_of_its_own_cpu_time(soak, seen_and_left):
    seen, _ = seen_and_left
    if seen["held_ms"] > soak.HELD_MS:  # whatever shares the core slows down its CPU time too
        seen, _ = soak.whole(2000, hostile_every=20)
    assert seen["held_ms"] <= soak.HELD_MS, seen["held_by"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_in_the_middle_leaves_no_process(soak, number):
    seen = soak.interrupted(number)
    assert seen["had"] >= 3 and seen["left"] == [] and seen["code"] == -number
