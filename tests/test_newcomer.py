"""What a new user types, from the built wheels in a new environment, up to a trained plugin of their own.

`make docs-newcomer` writes what was printed into docs/transcript.md; `make test-newcomer` does it all again
and compares.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cookbook.runs import read_rows

sys.path.insert(0, str(Path(__file__).parent))
import consoles

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "transcript.md"
pytestmark = pytest.mark.newcomer

ENV = "cookbook-plugin-words/src/cookbook_plugin_words/env.py"
SESSION = [
    "python3 -m venv venv",
    "source venv/bin/activate",
    "pip install -q -c constraints.txt torch",
    "pip install -q cookbook-core cookbook-plugin-local",
    "cookbook local setup",
    "cookbook new words",
    "pip install -q -e 'cookbook-plugin-words[test]'",
    "cookbook list env",
    "cookbook check words",
    "pytest -q cookbook-plugin-words",
    "cookbook run core/rl env=words/last-word --local steps=20",
    f"sed -i 's/default=3/default=4/' {ENV}",
    "cookbook show env:words/last-word",
    "pytest -q cookbook-plugin-words",
    "cookbook run words/last-word --local --dry-run",
]
PAGE_TEXT = """\
# From nothing to a trained plugin

What a new user types, and what is printed: from the wheels, in a folder with `constraints.txt`, up to an
environment of their own that a model has learnt. `make docs-newcomer` makes this page; `make test-newcomer`
does all of it again and compares. What `pip` downloads was in its cache.

{took}

```text
{session}
```
"""
_OF_PIP = re.compile(r"^Looking in |^ +━")  # where this index lies; how fast it was
SHOWN = 12  # lines of a longer output, on the page


@dataclass
class Done:
    """One command, what it printed, and how long it took."""

    command: str
    lines: list[str]
    seconds: float


class Newcomer:
    """A folder, and a shell in it that knows nothing of this checkout but its wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
        kept = {
            k: os.environ[k] for k in os.environ if not k.startswith(("PYTHON", "COOKBOOK", "VIRTUAL", "PIP"))
        }
        cache = subprocess.run(
            [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
        )
        pip = {k: v for k, v in os.environ.items() if k.startswith("PIP")}  # where its index is
        self.env = kept | pip | {
            "HOME": str(folder),
            "PIP_CACHE_DIR": cache.stdout.strip(),
            "PIP_FIND_LINKS": f"{ROOT / 'dist'} {pip.get('PIP_FIND_LINKS', '')}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "110",
            "NO_COLOR": "1",
        }  # fmt: skip

    def types(self, command: str) -> Done:
        """Fails where the command does."""
        began = time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        if command.startswith("source "):  # holds for what follows, as it does in a shell
            self.env["PATH"] = f"{self.folder / 'venv' / 'bin'}{os.pathsep}{self.env['PATH']}"
        text = done.stdout.replace(str(self.folder), "~").replace("\r", "\n")
        lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _OF_PIP.search(line)]
        return Done(command, lines, time.perf_counter() - began)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    assert list((ROOT / "dist").glob("cookbook_core-*.whl")), "`make wheels` builds them"
    return newcomer, [newcomer.types(command) for command in SESSION]


def test_from_nothing_to_a_trained_plugin_in_fewer_than_25_commands(session):
    newcomer, done = session
    assert len(done) < 25
    (folder,) = (newcomer.folder / "runs").iterdir()
    rewards = [row["reward"] for row in read_rows(folder)]
    assert len(rewards) == 20 and sum(rewards[-5:]) > sum(rewards[:5]) + 1.0, rewards
    print(f"{len(done)} commands, {sum(each.seconds for each in done):.0f} s")
    for each in done:
        print(f"  {each.seconds:6.1f} s  {each.command}")


def test_a_change_in_the_environment_is_seen_at_once(session):
    _, done = session
    (show,) = [each for each in done if each.command.startswith("cookbook show")]
    assert any("4 (default)" in line for line in show.lines)


def test_the_page_shows_this_session(session):
    _, done = session
    page = _page(done)
    if os.environ.get("COOKBOOK_WRITE_TRANSCRIPT"):
        PAGE.write_text(page)
    shown, printed = (_session(text) for text in (PAGE.read_text(), page))
    assert [each.text for each in shown] == [each.text for each in printed]
    for old, new in zip(shown, printed, strict=True):
        assert consoles.same(old.shown, new.shown), f"{old.text}: `make docs-newcomer` writes the page anew"


def _page(done: list[Done]) -> str:
    blocks = ["\n".join([f"$ {each.command}", *_shown(each.lines)]) for each in done]
    total = sum(each.seconds for each in done)
    slow = [f"{each.seconds:.0f} s for `{each.command}`" for each in done if each.seconds >= 10]
    took = f"{len(done)} commands, {total:.0f} seconds on {os.cpu_count()} cores; {'; '.join(slow)}."
    return PAGE_TEXT.format(took=took, session="\n\n".join(blocks))


def _shown(lines: list[str]) -> list[str]:
    """The beginning and the end of what is long."""
    if len(lines) <= SHOWN:
        return lines
    return [*lines[: SHOWN // 2], "...", *lines[-SHOWN // 2 :]]


def _session(page: str) -> list[consoles.Command]:
    """The commands on the page, with what they print."""
    (block,) = [block for block in consoles.blocks(page) if block.kind == "text"]
    block.lines = [re.sub(r"(cpu_s|_per_s|grade/s) \S+", r"\1 N", line) for line in block.lines]
    return consoles.commands(block)
