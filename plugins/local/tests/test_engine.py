"""Whose turn it is on the engine's thread."""

import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from cookbook_plugin_local.engine import Engine


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.close()


class Ask:
    """A request that takes so many steps."""

    def __init__(self, steps):
        self.steps, self.future = steps, Future()


class Counter:
    """A worker that writes down its steps. during: what to do in the step of that number."""

    def __init__(self, name, place, log, during=None):
        self.name, self.place, self._log = name, place, log
        self._during, self._asked, self._steps = during or {}, [], 0

    @property
    def busy(self):
        return bool(self._asked)

    def add(self, request):
        self._asked.append(request)

    def step(self):
        self._steps += 1
        self._log.append(self.name)
        self._during.get(self._steps, lambda: None)()
        for request in self._asked:
            request.steps -= 1
            if not request.steps:
                request.future.set_result(self._steps)
        self._asked = [request for request in self._asked if request.steps]

    def abandon(self, error):
        asked, self._asked = self._asked, []
        for request in asked:
            request.future.set_exception(error)


@pytest.fixture
def at_once(engine):
    """Has the engine meet all of these together; returns when they are answered."""

    def run(*asked):
        held = threading.Event()
        engine.submit(held.wait)
        futures = [engine.serve(worker, Ask(steps)) for worker, steps in asked]
        held.set()
        return [future.result() for future in futures]

    return run


def test_the_oldest_weights_are_served_first_whoever_asked_first(engine, at_once):
    log = []
    old, new = Counter("old", engine.place(), log), Counter("new", engine.place(), log)
    at_once((new, 3), (old, 2), (new, 1))
    assert log == ["old", "old", "new", "new", "new"]


def test_a_request_on_older_weights_goes_before_what_is_under_way(engine, at_once):
    log, late = [], Ask(2)
    old = Counter("old", engine.place(), log)
    new = Counter("new", engine.place(), log, {2: lambda: engine.serve(old, late)})
    at_once((new, 4))
    assert log == ["new", "new", "old", "old", "new", "new"]
    assert late.future.result() == 2


def test_new_requests_of_the_oldest_join_at_its_next_step(engine, at_once):
    log, joining = [], Ask(2)
    old = Counter("old", engine.place(), log, {1: lambda: engine.serve(old, joining)})
    new = Counter("new", engine.place(), log)
    at_once((old, 4), (new, 1))
    assert log == ["old"] * 4 + ["new"]
    assert joining.future.result() == 3  # the second and third step


def test_jobs_are_done_between_steps(engine, at_once):
    log = []
    worker = Counter(
        "step", engine.place(), log, {2: lambda: [engine.submit(lambda: log.append("job")) for _ in range(2)]}
    )
    at_once((worker, 3))
    assert log == ["step", "step", "job", "job", "step"]


def test_workers_on_the_same_weights_take_a_step_each(engine, at_once):
    log, place = [], engine.place()
    a, b, new = Counter("a", place, log), Counter("b", place, log), Counter("new", engine.place(), log)
    at_once((a, 3), (b, 2), (new, 1))
    assert log == ["a", "b", "a", "b", "a", "new"]


def test_a_step_that_breaks_fails_its_own_worker_only(engine, at_once):
    log = []
    place = engine.place()
    broken, beside = Counter("broken", place, log, {1: lambda: 1 / 0}), Counter("beside", place, log)
    held = threading.Event()
    engine.submit(held.wait)
    lost, fine = engine.serve(broken, Ask(2)), engine.serve(beside, Ask(2))
    held.set()
    assert isinstance(lost.exception(), ZeroDivisionError)
    assert fine.result() == 2
    assert log == ["broken", "beside", "beside"]


def test_a_script_that_closes_nothing_ends_as_it_should(folder):
    """A thread inside torch when the interpreter goes would abort the process."""
    script = f"""
import tinker
from cookbook_plugin_local import ServiceClient
sampler = ServiceClient().create_sampling_client(base_model={str(folder)!r}).result()
prompt = tinker.ModelInput.from_ints([5, 6, 7])
endless = sampler.sample(prompt, 16, tinker.SamplingParams(max_tokens=2000, stop=[], seed=0))
sampler.compute_logprobs(prompt).result()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
