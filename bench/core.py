"""Core's two hot paths beside tinker-cookbook's, in one run: `python bench/core.py PEER_PYTHON`.

Each side runs in processes of its own, in turn with the others, so that what else the machine does hits
all alike. Printed are medians with min and max over all rounds, and whether the bars are met; a missed
bar is no failure of the command.
"""

from __future__ import annotations

import sys

import core_datums
import core_rollout
from side_by_side import bar, machine, ratios, rounds, same_work, spread

ROUNDS = 5


def datums(peer_python: str) -> None:
    results = rounds(ROUNDS, "core_datums.py", [(sys.executable, "ours"), (peer_python, "peer")])
    ours, peer, lean = results[0]
    groups, size, turns = core_datums.GROUPS, core_datums.SIZE, core_datums.TURNS
    print(f"Episodes to datums, advantages included: {groups} x {size} episodes of {turns} turns")
    print(f"{'million tokens a second':46}{'median':>8}{'min':>8}{'max':>8}   ours over it (min-max)")
    for name in (ours, peer, lean):
        median, least, most = spread(results, name, "seconds")
        rates = [core_datums.TOKENS / seconds / 1e6 for seconds in (median, most, least)]
        times, low, high = ratios(results, name, ours, "seconds")
        print(
            f"{name:46}" + "".join(f"{rate:8.2f}" for rate in rates) + f"{times:8.2f} ({low:.2f}-{high:.2f})"
        )
    print(same_work(results, (ours, peer, lean)))
    times, _, _ = ratios(results, peer, ours, "seconds")
    bar(f"at least 5 times the peer's tokens a second, {times:.1f} times", times >= 5)


def rollouts(peer_python: str) -> None:
    adapters = [(sys.executable, "bare"), (sys.executable, "ours")]
    adapters += [(peer_python, "peer_bare"), (peer_python, "peer")]
    results = rounds(ROUNDS, "core_rollout.py", adapters)
    bare, ours, peer_bare, peer = results[0]
    print(
        f"\nRollout loop, a sampler that answers at once: {core_rollout.GROUPS} x {core_rollout.SIZE} ",
        end="",
    )
    print(f"episodes of {core_rollout.TURNS} turns, all at once")
    print("(on every side what was imported is kept out of garbage collections)")
    print(f"{'':30}{'CPU us a step':>24}{'over its floor':>22}{'longest stall, ms':>20}")
    print(f"{'':30}" + f"{'median':>8}{'min':>8}{'max':>8}{'(min-max)':>22}{'median':>12}{'max':>8}")
    for name, floor in ((bare, bare), (ours, bare), (peer_bare, peer_bare), (peer, peer_bare)):
        cpu = "".join(f"{x:8.1f}" for x in spread(results, name, "cpu_s", 1e6))
        times, low, high = ratios(results, name, floor, "cpu_s")
        over = "" if name == floor else f"{times:.2f} ({low:.2f}-{high:.2f})"
        stall, _, longest = spread(results, name, "stall_s", 1e3)
        print(f"{name:30}{cpu}{over:>22}{stall:12.0f}{longest:8.0f}")
    print("messages, " + same_work(results, (bare, ours)))
    print("tokens, " + same_work(results, (peer_bare, peer)))
    times, _, _ = ratios(results, ours, bare, "cpu_s")
    longest = spread(results, ours, "stall_s", 1e3)[2]
    bar(f"at most 1.15 times the CPU a step of bare asyncio, {times:.2f} times", times <= 1.15)
    bar(f"no stall of the event loop over 100 ms, {longest:.0f} ms", longest <= 100)


def main(peer_python: str) -> None:
    print(f"\n{machine('cookbook-core', 'tinker', 'numpy')}; {ROUNDS} rounds\n")
    datums(peer_python)
    rollouts(peer_python)


if __name__ == "__main__":
    main(sys.argv[1])
