"""A process with a pool. It tells the ids of its workers (one busy, one idle) as a line of JSON, reads a
line, and ends in the way its argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings

from cookbook_plugin_math.pool import Pool


def main(way: str) -> None:
    pool = Pool("pool_targets:act", timeout_s=1.5)
    pool.warm()
    pool.submit("spin")
    ids = [worker.process.pid for worker in pool._workers]
    if way == "fork":
        ids.append(fork(pool))
    print(json.dumps(ids), flush=True)
    sys.stdin.readline()
    if way == "pending":
        for _ in range(200):
            pool.submit("spin")
    if way == "exit":
        sys.exit(3)
    if way == "raise":
        raise ValueError


def fork(pool: Pool) -> int:
    """A child that used its own pool and lives on."""
    warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        assert not pool._workers
        os.write(tell, str(pool.submit("same", 7).result(20)).encode())
        signal.pause()
    assert os.read(told, 10) == b"7"
    return child


if __name__ == "__main__":
    main(sys.argv[1])
