"""The commands on the pages of docs/, run from top to bottom in an empty folder, beside what the page shows.

    python tests/consoles.py [--embedded] [PAGE ...]     # writes outputs that have changed into the pages

What a page may hold:

- ```console: a line that begins with "$ " is a command, the lines after it are all that it prints. A command
  that should fail ends in "  # exits with 2". A line "..." stands for any lines. `cd FOLDER` holds for what
  follows.
- ```console embedded, or any block so marked: needs the embedded model, or a package index (`pip install`).
- ```python title=my_envs.py, or another language: a file, written before what follows. append=my_envs.py
  adds to one, after two empty lines.
- ```python from=core/cookbook/rl.py: lines of that file, in their order; "..." stands for what is left out.
- ```python tested=tests/test_tools.py: code that this test takes from the page and runs.
- a command in an indented block is for the reader's machine (a key, a download, hours): the options of a
  `cookbook run` are settled, so that its ids and options exist, and of others that there is such a command.

No other block may hold Python or a command: nothing would run it. `make test` runs what is not marked, `make
test-embedded` whole pages, and `make docs` writes what has changed.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cookbook import cli, configs, launch, registry
from cookbook.errors import CookbookError

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "catalogue.md")
TIMEOUT_S = 1200

# What differs between two runs of one command, and is compared as what it is an instance of.
_NUMBER = re.compile(r"[-+]?\d+\.\d+(e[-+]?\d+)?|\bnan\b")
RULES = [
    ("the time and hash in the name of a run's folder", r"-\d{8}-\d{6}-[0-9a-f]{4}\b", "-TIME-HASH"),
    ("a duration", r"\b\d+(\.\d+)?( ?)(us|ms|s|seconds|minutes)\b", r"N\2\3"),
    ("a rate, or a duration with its name", r"([_/](?:per_s|s|ms|us)) [\d.e+-]+", r"\1 N"),
    ("the machine that a run was on", r"^on device .*", "on device ..."),
    ("a line of a source file", r"\.py:\d+", ".py:N"),
    ("what a model said", r"^  assistant: .*", "  assistant: ..."),
]
# Lines of a run, and of its table at the end: their numbers, and so their width, depend on the processor.
_MEASURED = re.compile(
    r"^(step +\d+/\d+ |[\w.]+ of version \d+: |[\w.]+: \w+ \d|an episode of step |[│┃┏┡└])"
)

_FENCE = re.compile(r"^```(\w*) *(.*)$")
_COMMAND = re.compile(r"^ {4}((?:cd \S+ && )?(?:cookbook|make|pip|pytest|python3?|source|export|git) .*)$")
_EXITS = re.compile(r"^(.*?) +# exits with (\d+)$")
_FOR_THE_READER = ("make", "pip", "pytest", "python", "python3", "source", "export", "git")
_PLACEHOLDER = re.compile(r"ID|RUN|NAME|KIND|FILE\S*|\[.*")


@dataclass
class Block:
    """kind: "console", "indented" or the language of a fence. first: the index of its first line."""

    kind: str
    marks: list[str]
    first: int
    lines: list[str] = field(default_factory=list)

    def value(self, name: str) -> str:
        """`title=x` gives x; empty where there is none."""
        return next((mark.partition("=")[2] for mark in self.marks if mark.startswith(name + "=")), "")


@dataclass
class Command:
    """One command of a console block, and what the page shows that it prints."""

    text: str
    code: int
    shown: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """problems: one text each, which begins with page and line. page: its text with outputs as they came."""

    problems: list[str]
    page: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, and each indented command as a block of its own."""
    found: list[Block] = []
    inside: Block | None = None
    for n, line in enumerate(text.splitlines()):
        fence = _FENCE.match(line)
        if inside and fence:
            inside = None
        elif inside:
            inside.lines.append(line)
        elif fence:
            inside = Block(fence[1], fence[2].split(), n + 1)
            found.append(inside)
        elif command := _COMMAND.match(line):
            found.append(Block("indented", [], n, [command[1]]))
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block; raises ValueError for output before the first."""
    found: list[Command] = []
    for line in block.lines:
        if line.startswith("$ "):
            exits = _EXITS.match(line)
            found.append(Command(exits[1][2:], int(exits[2])) if exits else Command(line[2:], 0))
        elif found:
            found[-1].shown.append(line)
        else:
            raise ValueError("a console block begins with a command, `$ ...`")
    return found


def normal(line: str) -> str:
    """A line as it is compared."""
    if _MEASURED.match(line):
        line = re.sub(r"[─━]+", "─", re.sub(r" +", " ", _NUMBER.sub("N", line)))
        line = line.replace(" kl_k1 N", "")  # where all groups were constant there is none
    for _, pattern, instead in RULES:
        line = re.sub(pattern, instead, line)
    return line.rstrip()


def same(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether a page shows what was printed, "..." standing for any lines."""
    parts, rest = _parts(shown), [normal(line) for line in printed]
    if len(parts) == 1:
        return parts[0] == rest
    head, *middle, tail = parts
    if (
        len(head) + len(tail) > len(rest)
        or rest[: len(head)] != head
        or rest[len(rest) - len(tail) :] != tail
    ):
        return False
    rest = rest[len(head) : len(rest) - len(tail)]
    for part in middle:
        at = next((i for i in range(len(rest) - len(part) + 1) if rest[i : i + len(part)] == part), None)
        if at is None:
            return False
        rest = rest[at + len(part) :]
    return True


def _parts(shown: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == "...":
            parts.append([])
        else:
            parts[-1].append(normal(line))
    return parts


def updated(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """What the page should show: what was printed, with as much left out in the middle as was."""
    dots = [i for i, line in enumerate(shown) if line.strip() == "..."]
    if not dots:
        return list(printed)
    head, tail = dots[0], len(shown) - dots[-1] - 1
    if len(printed) <= head + tail:
        return list(printed)
    return [*printed[:head], "...", *printed[len(printed) - tail :]]


class Place:
    """An empty folder, and a `cookbook`, `python`, `pytest` and `pip` that are this checkout's."""

    def __init__(self, folder: Path, installs: bool) -> None:
        """installs: whether `pip install` will be asked for; it then goes into an environment of its own."""
        self.top, self._bin = (folder / "here").resolve(), folder / "bin"
        self.top.mkdir(parents=True)
        self._bin.mkdir()
        self.now, python = self.top, sys.executable
        if installs:
            python = self._environment(folder / "venv")
        pip = f"{shlex.quote(sys.executable)} -m pip --python {shlex.quote(python)}"
        for name, does in {
            "cookbook": f"{shlex.quote(python)} -m cookbook.cli",
            "python": shlex.quote(python),
            "pytest": f"{shlex.quote(python)} -m pytest",
            "pip": pip,
        }.items():
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec {does} "$@"\n')
            script.chmod(0o755)

    @staticmethod
    def _environment(folder: Path) -> str:
        """A new environment that sees what this one has; its Python."""
        venv.create(folder, with_pip=False)
        (site,) = folder.glob("lib/python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (site / "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in ours))
        return str(folder / "bin" / "python")

    def write(self, name: str, text: str, add: bool = False) -> None:
        path = (self.now / name).resolve()
        if self.top not in path.parents:
            raise ValueError(f"{name} lies outside of the page's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() + "\n\n" if add else "") + text)

    def run(self, command: str) -> tuple[int, list[str]]:
        """Exit code, and the lines printed on either stream."""
        if command.startswith("cd "):
            self.now = (self.now / command[3:]).resolve()
            ok = self.now.is_dir() and (self.now == self.top or self.top in self.now.parents)
            return (0, []) if ok else (1, [f"no folder {command[3:]}"])
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.now, env=self._environ(), timeout=TIMEOUT_S, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = done.stdout.replace(str(self.top), "~/here").replace(str(ROOT), "~/cookbook")
        return done.returncode, [line.rstrip() for line in said.rstrip().splitlines()]

    def _environ(self) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("COOKBOOK_RUNS", "TINKER", "PYTEST"))
        }
        kept.pop("COOKBOOK_DISABLE_PLUGINS", None)
        sources = [ROOT / "core", *sorted((ROOT / "plugins").glob("*/src"))]
        return kept | {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "PYTHONUNBUFFERED": "1",  # both streams in the order of a terminal
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "110",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }


def run_page(page: Path, folder: Path, *, embedded: bool = False) -> Outcome:
    """Does all that a page says, in `folder`; without `embedded`, less the blocks with that mark."""
    text = page.read_text()
    todo = [block for block in blocks(text) if embedded or "embedded" not in block.marks]
    installs = any("pip install" in line for block in todo if block.kind == "console" for line in block.lines)
    place, problems, lines = Place(folder, installs), [], text.splitlines()
    outputs: list[tuple[Block, list[str]]] = []
    for block in todo:
        try:
            if block.kind == "console":
                problem, shows = _console(block, place)
                outputs.append((block, shows))
            else:
                problem = _other(block, place, page.name)
        except (ValueError, OSError) as error:
            problem = str(error)
        if problem:
            problems.append(f"{page.name}:{block.first + 1}: {problem}")
    for block, shows in reversed(outputs):
        lines[block.first : block.first + len(block.lines)] = shows
    return Outcome(problems, "\n".join(lines) + "\n")


def _console(block: Block, place: Place) -> tuple[str, list[str]]:
    """What is wrong with a console block, and the lines that it ought to have."""
    problems, shows = [], []
    for command in commands(block):
        code, printed = place.run(command.text)
        end = f"  # exits with {command.code}" if command.code else ""
        shown, gap = _without_gap(command.shown)
        right = same(shown, printed)
        keep = right or code != command.code  # a traceback isn't written into a page
        shows += [f"$ {command.text}{end}", *(shown if keep else updated(shown, printed)), *gap]
        if code != command.code:
            said = "\n".join(printed[-5:])
            problems.append(f"`{command.text}` exits with {code}, not {command.code}\n{said}")
        elif not right:
            wrong = difflib.unified_diff(shown, printed, "the page", "printed", lineterm="", n=1)
            problems.append("\n".join([f"`{command.text}` prints otherwise", *wrong]))
    return "\n".join(problems), shows


def _without_gap(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines, and the empty ones at their end apart: they only set commands off."""
    n = len(lines)
    while n and not lines[n - 1].strip():
        n -= 1
    return lines[:n], lines[n:]


def _other(block: Block, place: Place, page: str) -> str:
    """What is wrong with a block that shows no output; "" for nothing."""
    body = "".join(line + "\n" for line in block.lines)
    if block.kind == "indented":
        return _for_the_reader(block.lines[0], place)
    if name := block.value("title") or block.value("append"):
        place.write(name, body, add=bool(block.value("append")))
    elif source := block.value("from"):
        return _quoted(body, (ROOT / source).read_text(), source)
    elif test := block.value("tested"):
        return "" if page in (ROOT / test).read_text() else f"{test} doesn't name {page}"
    elif block.kind in ("python", "bash", "sh", "shell"):
        return (
            f"nothing runs this {block.kind} block: give it title=, from= or tested=, or make it ```console"
        )
    return ""


def _quoted(body: str, source: str, name: str) -> str:
    """What isn't in the source, of lines that the page says are; "..." stands for what is left out."""
    rest = source.splitlines()
    for part in re.split(r"^ *\.\.\.\n", body, flags=re.MULTILINE):
        wanted = textwrap.dedent(part).strip("\n").splitlines()
        n = len(wanted)
        at = next(
            (
                i
                for i in range(len(rest) - n + 1)
                if textwrap.dedent("\n".join(rest[i : i + n])).splitlines() == wanted
            ),
            None,
        )
        if wanted and at is None:
            return f"{name} has no lines like\n{part}"
        rest = rest[(at or 0) + n :]
    return ""


def _for_the_reader(command: str, place: Place) -> str:
    """What is wrong with a command that isn't run here, as far as can be told."""
    there = re.match(r"cd (\S+) && (.*)", command)
    where = ROOT / there[1] if there else place.now
    words = shlex.split(there[2] if there else command, comments=True)
    if words[0] in _FOR_THE_READER:
        return ""
    if words[1] != "run" or any(_PLACEHOLDER.fullmatch(word) for word in words):
        of_plugins = {row.id for row in registry.default().rows("command")}
        known = words[1] in cli.COMMANDS or "/".join(words[1:3]) in of_plugins
        return "" if known else f"there is no `cookbook {words[1]}`"
    try:
        with contextlib.chdir(where):
            _settle(words[2:])
    except CookbookError as error:
        return f"`{command}`: {error}"
    finally:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(place.top)):
                del sys.modules[name]
    return ""


def _settle(argv: list[str]) -> None:
    """What `cookbook run` does before anything is loaded; raises `CookbookError` where that fails."""
    words, flags = cli._split(argv, ["--local", "--dry-run", "--help"], ["--name"])
    blueprint = launch.blueprint_of(registry.find("recipe", words[0]))
    layers = configs.layers_of(blueprint)
    if "--local" in flags:
        layers.append(("local", launch.local_values(blueprint)))
    configs.settle(blueprint.target, [*layers, configs.from_argv(words[1:])])


def main(argv: Sequence[str]) -> int:
    """Writes changed outputs into the pages; exit code 1 where something is wrong that this doesn't mend."""
    pages = [Path(word) for word in argv if word != "--embedded"] or PAGES
    left = 0
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_page(page, Path(folder), embedded="--embedded" in argv)
        page.write_text(outcome.page)
        for problem in outcome.problems:
            print(problem)
            left += "prints otherwise" not in problem
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
