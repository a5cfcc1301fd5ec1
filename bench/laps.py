"""Wall and CPU time of a process between two points. The standard library alone: both sides import it."""

from __future__ import annotations

import time


class Laps:
    """seconds, cpu_s: of each lap. CPU time counts all threads, and suffers less from other processes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []
        self.begin()

    def begin(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        self.seconds.append(time.perf_counter() - self._wall)
        self.cpu_s.append(time.process_time() - self._cpu)
        self.begin()

    def row(self) -> dict[str, list[float]]:
        """Without the first, which warms up."""
        return {"seconds": self.seconds[1:], "cpu_s": self.cpu_s[1:]}
