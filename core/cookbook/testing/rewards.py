"""L3: what is rewarded is what was asked for, and nothing else is; nothing a model says breaks the grader."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import EnvError
from ..types import Episode, Message, Task
from .drive import Policy, Table, against, always, anything, echo, oracle, play, text_of
from .limits import TookTooLong
from .rules import Report
from .subject import FAULTS, Subject, named, short, told

CONSTANTS = ("0", "1", "2", "yes", "no", "true", "false", "A", "B", "C", "D", "banana", "I don't know.")
GARBAGE = (
    " \n\t ",
    "\x00\x01\x7f\ufffd",
    "((((((((((" * 50,
    "\\boxed{\\frac{1}{",
    "'; raise SystemExit('the reply was run') #",  # what a grader that runs it ends with, and is found by
    "(_ for _ in ()).throw(SystemExit('the reply was run'))",
    "{}[]<>|&$`%~^",
    "\u0663\u0661\u202e\u200f\u200b\ufb01\U0001d7d9\u00bd\u221e",
    "-" * 2000,
    "nan inf -inf 1e999999 0/0",
    "nan",
    "9**2**25",  # most of a minute, to whoever works it out
    "[[[[]]]]" * 100,
    "None",
    '[1, null, {"answer": []}]',
)
ENORMOUS = "the answer is 1 and " * 5000
LENIENCE = 0.25
"""The share of tasks on which one kind of junk may get the best reward."""
CONSTANT_SHARE = 0.75
"""The share of tasks on which one constant reply may get the best reward; yes or no gets it on half."""
GROUP = 8
"""Random replies in a group."""
SLOW_S = 1.0
BUDGET_S = 20.0
"""How long one kind of reply is tried; the tasks that were played by then are what is told of."""

Played = list[tuple[Task, list[Episode]]]
"""Tasks with the episodes of each, those apart that broke a rule."""


@dataclass
class _Audit:
    """What one environment's rewards are looked at with. slowest: seconds a step, and where that was."""

    subject: Subject
    report: Report
    slowest: tuple[float, str] = (0.0, "")

    @property
    def alone(self) -> bool:
        """Whether a task is one seat's; with several, one wins whatever is said."""
        return self.subject.seats == 1

    @property
    def judged(self) -> bool:
        """Whether junk must not win: a task is one seat's, or the other seats are played well."""
        return self.alone or oracle(self.subject.audited[0]) is not None

    @property
    def lenience(self) -> float:
        """The share of tasks on which junk may win; a partner that plays well may save most of them."""
        return LENIENCE if self.alone else CONSTANT_SHARE

    @property
    def best(self) -> float:
        return self.subject.config.reward_range[1]

    def wins(self, episode: Episode) -> bool:
        return episode.reward is not None and episode.reward >= self.best - 1e-9

    def play(self, policies: Callable[[int, Task], Policy | None], what: str, size: int = 1) -> Played:
        """The audited tasks, each by its policy; all at once, or one by one where that goes wrong."""
        tasks = list(enumerate(self.subject.audited))
        tables = [(Table(task, p, (what, i))) for i, task in tasks if (p := policies(i, task)) is not None]
        episodes = self._at_once(tables, size)
        if episodes is None:
            played = self._one_by_one(tables, what, size)
        else:
            per = len(episodes) // max(1, len(tables))
            played = [(t.task, episodes[i * per : (i + 1) * per]) for i, t in enumerate(tables)]
        for task, found in played:
            for episode in found:
                self._look(task, episode, what)
        return [(task, found) for task, found in played if found]

    def _at_once(self, tables: Sequence[Table], size: int) -> list[Episode] | None:
        """None where it is worth a look which of them it was."""
        took: list[float] = []
        try:
            episodes = play(tables, size=size, seconds=self.subject.patience_s, took=took)
        except FAULTS:
            return None
        late = max(took, default=0) > SLOW_S
        return None if late or any(e.stop_reason == "timeout" for e in episodes) else episodes

    def _one_by_one(self, tables: Sequence[Table], what: str, size: int) -> Played:
        """Up to the first that breaks it, or that hangs: the others would, too."""
        played: Played = []
        limit = time.monotonic() + BUDGET_S
        for table in tables:
            before = len(self.report.findings)
            played.append((table.task, self._one(table, what, size)))
            waited = any(episode.stop_reason == "timeout" for episode in played[-1][1])
            if waited or time.monotonic() > limit or len(self.report.findings) > before:
                break
        return played

    def _one(self, table: Table, what: str, size: int) -> list[Episode]:
        where = f"{named(table.task)}, {what}"
        took: list[float] = []
        try:
            episodes = play([table], size=size, seconds=self.subject.patience_s, took=took)
        except TookTooLong as error:
            self.report.find("L3.hangs", f"{where}: {told(error)}")
            return []
        except EnvError as error:
            rule = "L3.finite" if "gave the reward" in str(error) else "L3.crash"
            self.report.find(rule, f"{where}: {error}")
            return []
        except FAULTS as error:
            self.report.find("L3.crash", f"{where}: {told(error)}")
            return []
        if size == 1:  # where others play too, a step that awaits takes their time as well
            self.slowest = max(self.slowest, (max(took, default=0), where))
        return episodes

    def _look(self, task: Task, episode: Episode, what: str) -> None:
        low, high = self.subject.config.reward_range
        if episode.stop_reason == "timeout":
            waits = f"a step waited for more than {self.subject.patience_s:g} s"
            self.report.find("L3.hangs", f"{named(task)}, {what}: {waits}")
        elif episode.reward is not None and not low - 1e-9 <= episode.reward <= high + 1e-9:
            outside = f"{what} got {episode.reward:g}, reward_range = ({low:g}, {high:g})"
            self.report.find("L3.range", f"{named(task)}, {outside}")


def check_rewards(subject: Subject, report: Report) -> None:
    """Looks at L3, of an environment that keeps L1."""
    audit = _Audit(subject, report)
    right, answers = _oracle(audit)
    if not audit.judged:
        several = "of several seats one wins, and no task says what ought to: oracle(messages)"
        report.unchecked |= dict.fromkeys(("L3.empty", "L3.garbage", "L3.echo", "L3.constant"), several)
    elif not audit.alone:
        report.unchecked["L3.echo"] = "of several seats another may need what the prompt says"
    _junk(audit)
    _constants(audit, answers)
    _groups(audit, right, answers)
    if audit.slowest[0] > SLOW_S:
        report.find("L3.slow", f"{audit.slowest[1]}: {audit.slowest[0]:.1f} s for a step")


def _oracle(audit: _Audit) -> tuple[Played, list[str]]:
    """Plays what ought to win: the episodes, and the texts of those replies."""
    subject = audit.subject
    answers = {i: text_of(m) if isinstance(m, dict) else str(m) for i, m in subject.answers.items()}
    for i, error in subject.unanswered.items():
        audit.report.find("L3.oracle", f"{named(subject.audited[i])}: its oracle(messages) raises {error}")
    played = audit.play(lambda i, task: oracle(task) if i in answers else None, "the reference answer")
    for task, (episode,) in played:
        said = short(episode.turns[0].message.get("content", ""), 60)
        if not audit.wins(episode):
            got = f"got {_worth(episode)}; the best reward is {audit.best:g}"
            audit.report.find("L3.oracle", f"{named(task)}: the reference answer {said!r} {got}")
        elif episode.correct is False:
            audit.report.find("L3.verdict", f"{named(task)}: the best reward, and the verdict is wrong")
    if not answers and not subject.unanswered:
        unknown = "no task says what ought to win: Question(answer=...), or oracle(messages) of a task"
        several = "with several seats nobody is sure to win"
        audit.report.unchecked["L3.oracle"] = unknown if audit.alone else several
    return played, list(answers.values())


def _worth(episode: Episode) -> str:
    return "no verdict" if episode.reward is None else f"{episode.reward:g}"


def _junk(audit: _Audit) -> None:
    kinds: list[tuple[str, str, list[Policy]]] = [
        ("L3.empty", "an empty reply", [always("")]),
        ("L3.garbage", "garbage", [always(text) for text in GARBAGE]),
        ("L3.garbage", "100,000 characters", [always(ENORMOUS)]),
        ("L3.echo", "the prompt itself", [echo]),
        ("L3.garbage", "a call of a tool that isn't", [always(message) for message in _bad_calls()]),
    ]
    for rule, what, policies in kinds:
        judged = audit.alone if rule == "L3.echo" else audit.judged
        for policy in _suspects(audit, what, policies):
            played = audit.play(lambda i, task, policy=policy: against(task, policy), what)
            won = [(task, episode) for task, (episode, *_) in played if audit.wins(episode)]
            if judged and len(won) > audit.lenience * len(played):
                task, episode = won[0]
                reply = short(episode.turns[-1].message.get("content", ""), 40)
                share = f"on {len(won)} of {len(played)} tasks"
                audit.report.find(rule, f"{named(task)}: {what} ({reply!r}) wins {share}")


def _suspects(audit: _Audit, what: str, policies: Sequence[Policy]) -> list[Policy]:
    """Those that win where they are tried, each on a few of the tasks."""
    kinds = {id(task): policies[i % len(policies)] for i, task in enumerate(audit.subject.audited)}
    played = audit.play(lambda i, task: against(task, kinds[id(task)]), what)
    return list(dict.fromkeys(kinds[id(task)] for task, (episode, *_) in played if audit.wins(episode)))


def _bad_calls() -> list[Message]:
    call = {"id": "1", "type": "function", "function": {"name": "__class__", "arguments": '{"a": NaN'}}
    unread = {"text": "<tool_call>{", "reason": "no JSON"}
    return [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "assistant", "content": "Let me see.", "unparsed_tool_calls": [unread]},
    ]


def _constants(audit: _Audit, answers: Sequence[str]) -> None:
    """One reply to every task: a yes, a number, the answers to other tasks."""
    common = [answer for answer, _ in Counter(answers).most_common(6)]
    best, limit = (-1.0, ""), time.monotonic() + BUDGET_S
    for text in dict.fromkeys([*common, *CONSTANTS]):
        if time.monotonic() > limit:
            break
        what = f"the constant {short(text, 30)!r}"
        played = audit.play(lambda i, task, text=text: against(task, always(text)), what)
        share = sum(audit.wins(episode) for _, (episode, *_) in played) / max(1, len(played))
        best = max(best, (share, text))
    tasks = audit.subject.audited
    audit.report.facts["reward/best_constant"] = [best[1], round(best[0], 3)]
    if audit.judged and len(tasks) > 1 and best[0] >= CONSTANT_SHARE:
        share = f"{best[0]:.0%} of {len(tasks)} tasks"
        told_of = f"{short(best[1], 40)!r}, whatever is asked, gets the best reward on {share}"
        audit.report.find("L3.constant", told_of)


def _groups(audit: _Audit, right: Played, answers: Sequence[str]) -> None:
    """Groups of random replies, and with the reference answer where there is one."""
    policy = anything([*dict.fromkeys(answers), *CONSTANTS])
    played = audit.play(lambda i, task: policy, "random replies", GROUP)
    if not played:
        return
    with_right = {id(task): episodes for task, episodes in right}
    fuller = [(task, [*episodes, *with_right.get(id(task), ())]) for task, episodes in played]
    rewards = [episode.reward for _, episodes in played for episode in episodes]
    given = [reward for reward in rewards if reward is not None]
    undecided, report = len(rewards) - len(given), audit.report
    report.facts["reward/random"] = round(sum(given) / len(given), 4) if given else None
    report.facts["reward/no_verdict"] = round(undecided / len(rewards), 4)
    report.facts["groups/vary"] = round(sum(_varies(episodes) for _, episodes in played) / len(played), 4)
    for task, episodes in fuller:
        _orders(audit, task, episodes)
    if undecided > len(rewards) / 2:
        report.find("L3.no-verdict", f"{undecided} of {len(rewards)} random replies got no verdict")
    elif not any(_varies(episodes) for _, episodes in fuller):
        worth = f"always {given[0]:g}" if len(set(given)) == 1 else "one reward within each"
        if right:
            among = f"all {len(played)} groups of {GROUP} random replies and the reference answer"
            report.find("L3.variance", f"{among}: {worth}")
        else:
            report.unchecked["L3.variance"] = f"random replies: {worth}, and no reference answer is known"


def _varies(episodes: Sequence[Episode]) -> bool:
    """Seat by seat, as baselines are."""
    by_seat: dict[int, set[float]] = {}
    for episode in episodes:
        if episode.reward is not None:
            by_seat.setdefault(episode.seat, set()).add(episode.reward)
    return any(len(rewards) > 1 for rewards in by_seat.values())


def _orders(audit: _Audit, task: Task, episodes: Sequence[Episode]) -> None:
    right = [e.reward for e in episodes if e.correct is True and e.reward is not None]
    wrong = [e.reward for e in episodes if e.correct is False and e.reward is not None]
    if right and wrong and min(right) < max(wrong):
        told_of = f"a right reply got {min(right):g}, a wrong one {max(wrong):g}"
        audit.report.find("L3.verdict", f"{named(task)}: {told_of}")
