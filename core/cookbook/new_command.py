"""`cookbook new`: a plugin package that installs, passes its tests and trains, for its author to change."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from pathlib import Path

from . import files, hints, registry
from .errors import ConfigError

KINDS = {  # the option's value: the environment it writes, and what that is
    "single-turn": ("last-word", "a question, one reply, a grader"),
    "multi-turn": ("recite", "several replies, an answer to each"),
    "tools": ("prices", "replies that call Python functions"),
    "two-seats": ("whisper", "two players at one table"),
}
_KINDS = "\n".join(f"                    {kind:<12} {what}" for kind, (_, what) in KINDS.items())
HELP = f"""\
usage: cookbook new NAME [--kind KIND] [--into FOLDER]

Writes cookbook-plugin-NAME/, a package that trains as it stands: an environment, a recipe, tests, README
and licence. NAME is the namespace of its ids.

  --kind KIND       what environment, else single-turn:
{_KINDS}
  --into FOLDER     where, else here
"""
SWITCHES = ()
VALUED = ("--kind", "--into")
_SCAFFOLD = Path(__file__).parent / "scaffold"
_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,38}[a-z0-9])?")  # also what a dist's name may end with
_PURPOSE = {  # of the files that an author opens, in this order
    "env.py": "the environment: begin here",
    "grader.py": "what is rewarded",
    "recipes.py": "how it is trained",
    "__init__.py": "what is registered, by which name",
    "test_": "its tests",
    "pyproject.toml": "name, licence, what it needs",
}


def main(words: list[str], flags: dict[str, str]) -> int:
    """Writes a package and prints what to do next; returns 0.

    Raises `ConfigError` for a name, a kind or a folder that can't be, or OSError; leaves nothing behind then.
    """
    if len(words) != 1:
        raise ConfigError("`cookbook new` takes one name, `cookbook new words` for instance")
    name, kind, into = words[0], flags.get("--kind", "single-turn"), Path(flags.get("--into", "."))
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind!r} of package; the kinds are {', '.join(KINDS)}")
    _check_name(name)
    folder = into / f"cookbook-plugin-{name}"
    if not into.is_dir():
        raise ConfigError(f"--into {into}: there is no such folder; make it first")
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} is there already; choose another name, or --into another folder")
    written = _write(folder, _contents(name, kind))
    print(_told(folder, written, f"{name}/{KINDS[kind][0]}"))
    return 0


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        fixed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").lstrip("-0123456789")[:40].rstrip("-")
        hint = f"; `cookbook new {fixed}`, say" if fixed else ""
        rule = "at most 40 of a-z, 0-9, _ and -, a letter first and no sign last"
        raise ConfigError(f"{name!r} can't be a namespace, which is {rule}{hint}")
    from .cli import COMMANDS  # which imports this when it is asked for

    if name in COMMANDS:
        raise ConfigError(f"{name} is a command of cookbook itself; choose another name")
    taken = {plugin.namespace: f"{plugin.dist} {plugin.version}" for plugin in registry.default().plugins}
    # my-words and my_words would be one module.
    for namespace, dist in (hints.SHIPPED | taken).items():
        if name.replace("-", "_") == namespace.replace("-", "_"):
            raise ConfigError(f"the namespace {namespace} is that of {dist}; choose another name")


def _contents(name: str, kind: str) -> dict[str, bytes]:
    """Every file of a package, by its path in it. The scaffold is a package too, whose name is xnamex."""
    swaps = {
        "cookbook_plugin_xnamex": f"cookbook_plugin_{name.replace('-', '_')}",
        "test_xnamex": f"test_{name.replace('-', '_')}",
        "xnamex": name,
        "xenvx": KINDS[kind][0],
    }

    def swapped(text: str) -> str:
        for old, new in swaps.items():
            text = text.replace(old, new)
        return text

    found = {}
    for root in (_SCAFFOLD / "common", _SCAFFOLD / kind.replace("-", "_")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:  # pip compiles what it installs
                text = path.read_text(encoding="utf-8")
                found[swapped(path.relative_to(root).as_posix())] = swapped(text).encode()
    return found


def _write(folder: Path, contents: dict[str, bytes]) -> list[str]:
    """All of it or nothing: written under another name, and moved when it is whole."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        whole = part / folder.name  # with the permissions that a new folder has, which mkdtemp's hasn't
        for name, data in contents.items():
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            files.write(whole / name, data)
        files.rename(whole, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list(contents)


def _told(folder: Path, written: list[str], id: str) -> str:
    """What was written, and the commands that come next."""
    lines = [f"wrote {folder}, {len(written)} files:"]
    for part, purpose in _PURPOSE.items():
        lines += [f"  {name:<48}  {purpose}" for name in written if name.rpartition("/")[2].startswith(part)]
    where = shlex.quote(str(folder))
    lines += [
        "next:",
        f"  pip install -e {shlex.quote(f'{folder}[test]')}",
        "  cookbook list env",
        f"  cookbook check {id.partition('/')[0]}",
        f"  pytest {where}",
        f"  cookbook run core/rl env={id} --local steps=20",
        f"  cookbook run {id} --local    # the same by its own recipe",
    ]
    return "\n".join(lines)
