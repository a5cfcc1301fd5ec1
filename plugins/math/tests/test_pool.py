"""The pool: each job is answered, or undecided for a reason, whatever the function does; no process stays."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from cookbook_plugin_math import pool as pool_module
from cookbook_plugin_math.pool import Pool, Undecided

HERE = Path(__file__).parent
LONG_S = 30.0  # what never takes that long


@pytest.fixture
def start(monkeypatch):
    """Starts a pool of one worker, with time enough on a busy machine, unless told otherwise."""
    monkeypatch.syspath_prepend(HERE)
    pools = []

    def start(target="pool_targets:act", **options):
        pools.append(Pool(target, **{"workers": 1, "timeout_s": LONG_S, **options}))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def reason(future):
    with pytest.raises(Undecided) as undecided:
        future.result(LONG_S)
    return undecided.value.reason


def result(future):
    return future.result(LONG_S)


class Watched:
    """Processes that needn't be children of this one."""

    def __init__(self, ids):
        self._fds = [os.pidfd_open(each) for each in ids]

    def ended(self, within_s=LONG_S):
        """How many of them have ended, all or after a while."""
        deadline = time.monotonic() + within_s
        return sum(
            bool(select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]) for fd in self._fds
        )

    def close(self):
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def watch():
    watched = []

    def watch(ids):
        watched.append(Watched(ids))
        return watched[-1]

    yield watch
    for each in watched:
        each.close()


def test_200_jobs_from_8_threads_get_each_its_own_answer(start):
    pool = start(workers=2)
    with ThreadPoolExecutor(8) as threads:
        asked = [{"n": i, "text": "é\n\ud800" * i} for i in range(200)]
        assert list(threads.map(lambda each: result(pool.submit("same", each)), asked)) == asked


def test_an_event_loop_awaits_answers(start):
    pool = start(workers=2)

    async def answers():
        return await asyncio.gather(*(asyncio.wrap_future(pool.submit("same", i)) for i in range(100)))

    assert asyncio.run(answers()) == list(range(100))


def test_no_process_starts_before_the_first_job_and_all_have_when_warm_returns(start):
    pool = start(workers=3)
    assert not pool._threads and not pool._workers
    pool.warm()
    pids = {worker.process.pid for worker in pool._workers}
    assert len(pids) == 3 and result(pool.submit("pid")) in pids


def test_a_busy_loop_is_ended_when_its_time_is_over_and_its_batch_mates_are_answered(start, tmp_path):
    pool = start(timeout_s=1.0)
    pool.warm()
    first = pool.submit("wait_for", str(tmp_path / "go"))
    others = [pool.submit("same", i) for i in range(20)]
    busy = [pool.submit(each) for each in ("spin", "compute")]
    others += [pool.submit("same", i) for i in range(20, 40)]
    (tmp_path / "go").touch()
    result(first)
    began = time.monotonic()
    assert [reason(each) for each in busy] == ["time", "time"]
    assert 1.9 < time.monotonic() - began < 10
    assert [result(each) for each in others] == list(range(40))


def test_a_job_that_the_kernel_cannot_end_is_ended_by_the_pool(start):
    pool = start(timeout_s=0.2)
    assert reason(pool.submit("deaf")) == "time"


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (["bomb"], "memory"),
        (["leave", 3], "died (status 3)"),
        (["leave", 0], "died (status 0)"),
        (["crash"], f"died (signal {int(signal.SIGSEGV)})"),
        (["hang_up"], f"died (signal {int(signal.SIGKILL)})"),
    ],
)
def test_a_worker_that_dies_fails_one_job_and_the_next_one_answers_the_rest(start, tmp_path, job, why):
    pool = start(memory_mb=200)
    first = pool.submit("wait_for", str(tmp_path / "go"))
    bad, *rest = [pool.submit(*each) for each in (job, ["pid"], ["pid"])]
    (tmp_path / "go").touch()
    assert reason(bad) == why
    second, third = map(result, rest)
    assert second == third != result(first)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (["recurse"], "RecursionError: maximum recursion depth exceeded"),
        (["fail", "one\n two"], "ValueError: one two"),
        (["fail", "x" * 10**6], "ValueError: " + "x" * 188),
        (["fail_mute"], "Mute: "),
        (["stop", "now"], "SystemExit: now"),
        (["nothing_of_json"], "TypeError: Object of type object is not JSON serializable"),
        (["digits"], "ValueError: Exceeds the limit"),
        (["same"], "TypeError: same() missing 1 required"),
    ],
)
def test_what_the_function_raises_is_told_and_the_worker_lives_on(start, job, why):
    pool = start()
    before = result(pool.submit("pid"))
    told = reason(pool.submit(*job))
    assert told.startswith(why) and len(told) <= 200
    assert result(pool.submit("pid")) == before


def test_what_is_printed_goes_nowhere_and_what_is_read_is_empty(start, capfd):
    pool = start()
    assert result(pool.submit("speak", '["a reply"]\n')) == "spoke"
    assert result(pool.submit("listen")) == ["", ""]
    assert capfd.readouterr() == ("", "")


def test_jobs_and_replies_of_100_kb_do_not_wait_for_each_other(start, tmp_path):
    pool = start()
    first = pool.submit("wait_for", str(tmp_path / "go"))
    texts = [f"{i} " * 40_000 for i in range(64)]
    jobs = [pool.submit("same", text) for text in texts]  # and none of it waits for the worker
    (tmp_path / "go").touch()
    assert [result(job) for job in jobs] == texts and result(first)


def test_a_job_larger_than_the_memory_is_undecided_alone(start):
    pool = start(memory_mb=20)
    large, small = pool.submit("same", "x" * 30 * 2**20), pool.submit("same", 1)
    assert reason(large) == "memory" and result(small) == 1


def test_arguments_without_json_are_refused_at_once(start):
    with pytest.raises(TypeError, match="not JSON serializable"):
        start().submit(object())


def test_a_cancelled_job_never_runs(start, tmp_path):
    pool = start()
    first = pool.submit("wait_for", str(tmp_path / "go"))
    cancelled = pool.submit("note", str(tmp_path / "ran"), "it did")
    assert cancelled.cancel()
    (tmp_path / "go").touch()
    assert result(first) and result(pool.submit("same", 1)) == 1
    assert wait([cancelled], LONG_S).done and not (tmp_path / "ran").exists()


def test_a_worker_that_was_killed_while_idle_costs_no_job(start, watch):
    pool = start()
    before = result(pool.submit("pid"))
    watched = watch([before])
    os.kill(before, signal.SIGKILL)
    assert watched.ended() == 1
    assert result(pool.submit("pid")) != before


def test_a_worker_minds_no_interrupt(start):
    pool = start()
    before = result(pool.submit("pid"))
    os.kill(before, signal.SIGINT)
    assert result(pool.submit("pid")) == before


def test_a_worker_has_the_folders_of_its_parent_no_core_dumps_and_no_heavy_modules(start):
    found = result(start().submit("found"))
    folders = list(dict.fromkeys(str(Path(folder).absolute()) for folder in sys.path))  # as `site` does
    assert folders == found["path"][: len(folders)]
    assert found["core"] == 0 and found["blocked"] == [] and found["interrupt"]
    assert not {"numpy", "subprocess", "socket", "chz", "tinker"} & set(found["modules"])


def test_a_target_that_cannot_be_imported_is_tried_a_few_times_and_every_job_is_told_why(
    start, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    code = f"open({str(tmp_path / 'tries')!r}, 'a').write('.')\nraise ValueError('not\\ntoday')"
    (tmp_path / "pool_broken.py").write_text(code)
    pool = start("pool_broken:f", workers=2)
    why = "no worker starts: ValueError: not today"
    assert [reason(pool.submit(i)) for i in range(3)] == [why] * 3
    with pytest.raises(Undecided, match="not today"):
        pool.warm()
    for thread in pool._threads:
        thread.join(LONG_S)
    assert 3 <= len((tmp_path / "tries").read_text()) <= 4


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere.at_all:f", "ModuleNotFoundError: No module named 'nowhere'"),
        ("pool_targets:nothing", "AttributeError: module 'pool_targets' has no attribute 'nothing'"),
        ("pool_targets", "AttributeError: module 'pool_targets' has no attribute ''"),
    ],
)
def test_a_target_that_does_not_exist_is_named(start, target, why):
    assert reason(start(target).submit()) == f"no worker starts: {why}"


def test_an_import_that_takes_for_ever_is_given_up(start, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "START_S", 0.2)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pool_endless.py").write_text("while True: pass")
    assert reason(start("pool_endless:f").submit()) == "no worker starts: time"


def test_closing_ends_what_runs_and_leaves_no_job_without_an_end(start, watch):
    pool = start(workers=2)
    pool.warm()
    watched = watch(worker.process.pid for worker in pool._workers)
    jobs = [pool.submit("spin") for _ in range(200)]
    began = time.monotonic()
    pool.close()
    pool.close()
    assert {reason(job) for job in jobs} == {"the pool is closed"} == {reason(pool.submit("pid"))}
    assert watched.ended() == 2 and time.monotonic() - began < 5
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(Undecided, match="closed"):
        pool.warm()


def test_closing_while_workers_start_ends_them(start):
    pool = start(workers=2)
    job = pool.submit("same", 1)
    pool.close()
    assert reason(job) == "the pool is closed" and not pool._workers


def test_a_pool_may_be_closed_by_who_hears_of_an_answer(start):
    pool, closed = start(), threading.Event()
    pool.submit("same", 1).add_done_callback(lambda _: (pool.close(), closed.set()))
    assert closed.wait(LONG_S)


def test_replaced_workers_leave_no_descriptors_and_workers_have_one(start):
    pool = start(workers=2)
    pool.warm()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        reason(pool.submit("leave", 1))
    pool.warm()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(result(pool.submit("open_files"))) == 1


ENDS = {"return": 0, "exit": 3, "raise": 1, "pending": 0}
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("way", [*ENDS, *SIGNALS], ids=str)
def test_no_worker_outlives_its_parent_however_that_ends(way, watch):
    with parent(way if way in ENDS else "return") as process:
        watched = watch(json.loads(process.stdout.readline()))
        if way in ENDS:
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            os.killpg(process.pid, way)
        assert process.wait(LONG_S) == ENDS.get(way, process.returncode)
        assert watched.ended() == 2


def test_a_fork_has_a_pool_of_its_own_and_keeps_no_worker_of_its_parent_alive(watch):
    with parent("fork") as process:
        *workers, fork = json.loads(process.stdout.readline())
        watched, child = watch(workers), watch([fork])
        process.kill()
        assert process.wait(LONG_S) == -signal.SIGKILL
        assert watched.ended() == 2 and child.ended(0) == 0
        os.kill(fork, signal.SIGKILL)
        assert child.ended() == 1


def test_a_fork_that_ends_leaves_the_workers_of_its_parent_alone():
    code = """
        import os, sys, warnings
        warnings.simplefilter("ignore")  # that a process with threads forks
        from cookbook_plugin_math.pool import Pool
        pool = Pool("pool_targets:act", workers=1, timeout_s=30)
        before = pool.submit("pid").result()
        fork = os.fork()
        if fork == 0:
            sys.exit(5 if pool.submit("pid").result() != before else 6)
        assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 5
        assert pool.submit("pid").result() == before
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def parent(way):
    """A process of `pool_parent.py`, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, HERE / "pool_parent.py", way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
