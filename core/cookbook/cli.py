"""The command line: the commands that `USAGE` lists, and plugins' own.

What a user can get wrong ends in one line on standard error and exit code 2.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import __version__, hints, registry
from .errors import ConfigError, CookbookError

if TYPE_CHECKING:
    from .configs import Settled
    from .registry import Row

USAGE = """\
usage: cookbook COMMAND ...

  list [KIND] [--json]     what is registered, and who provides it; --markdown with all options
  show ID                  options, their types and defaults, and where the code is
  run ID [KEY=VALUE ...]   run a recipe
      --local              on this machine, without a key
      --dry-run            show the first batch's tokens and what a step costs; train nothing
      --help               every option, its value and where that comes from
      --name NAME          the run's folder (else made from recipe and time)
  run --from RUN [K=V ...] a new run with the options of another
  resume RUN               go on with a run that was killed, interrupted or failed
  eval ENV [KEY=VALUE ...] play held-out tasks, before training or after: `cookbook eval --help`
  runs                     the runs so far; a RUN is a name, the beginning of one, or `last`
  new NAME                 write a plugin package that trains, to be changed; `cookbook new --help`
  check NAMESPACE | ID     hold a plugin to the rules of its kind; `cookbook check --help`
  render FILE.jsonl ...    conversations as tokens, with what is trained; `cookbook render --help`
  plugins [--json]         installed plugins, and what is wrong with those that don't load
  NAMESPACE NAME ...       a plugin's own command; `cookbook list command` shows them
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 2 for what the user can mend, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a reply that the terminal can't show must not end a run
    try:
        code = _dispatch(argv)
        sys.stdout.flush()  # where the reader went away, it shows here
        return code
    except CookbookError as e:
        print(_line(str(e), e), file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        print(_line("interrupted", e), file=sys.stderr)
        return 128 + getattr(e, "signum", signal.SIGINT)
    except BrokenPipeError:
        # The reader went away (`cookbook list | head`): what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        where = f" {e.filename}" if e.filename else ""
        print(_line(f"{e.strerror or e}{where}", e), file=sys.stderr)
        return 1


def _line(text: str, error: BaseException) -> str:
    """An error in one line, with the next command where one was noted."""
    return "; ".join([f"cookbook: {text}", *getattr(error, "__notes__", ())])


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    known = {plugin.namespace for plugin in registry.default().plugins} | set(hints.SHIPPED)
    own = [row.id for row in registry.default().rows("command") if row.id.startswith(argv[0] + "/")]
    if len(argv) == 1 and own:
        raise ConfigError(
            f"{argv[0]} has the commands " + ", ".join(f"`cookbook {id.replace('/', ' ')}`" for id in own)
        )
    if argv[0] in known or any(argv[0] == plugin.namespace for plugin in hints.stale()):
        return registry.find("command", f"{argv[0]}/{''.join(argv[1:2])}").load()(argv[2:])
    raise ConfigError(f"there is no command {argv[0]!r}; `cookbook --help` shows them")


def _split(
    argv: list[str], flags: Sequence[str] = (), valued: Sequence[str] = (), command: str = ""
) -> tuple[list[str], dict[str, Any]]:
    """Words, and the flags among them. command: whose help lists them. Raises `ConfigError` for another."""
    words: list[str] = []
    found: dict[str, Any] = {}
    rest = iter(argv)
    for word in rest:
        if word in flags:
            found[word] = True
        elif word in valued:
            found[word] = next(rest, None)
            if found[word] is None:
                raise ConfigError(f"{word} needs a value")
        elif word.startswith("-"):
            raise ConfigError(f"there is no flag {word!r}; `cookbook {command}--help` shows them")
        else:
            words.append(word)
    return words, found


def _list(argv: list[str]) -> int:
    words, flags = _split(argv, ["--json", "--markdown"])
    if len(words) > 1:
        raise ConfigError(f"`cookbook list` takes one kind, not {' '.join(words)}")
    rows = registry.default().rows(*words)
    if "--json" in flags:
        print(json.dumps([row.as_json() for row in rows], indent=1))
        return 0
    if "--markdown" in flags:
        from . import catalogue_command

        print(catalogue_command.page(rows))
        return 0
    table = [
        (
            *(() if words else (row.kind,)),
            row.id,
            row.summary,
            ", ".join(row.needs),
            f"{row.dist} {row.version}",
        )
        for row in rows
    ]
    _print_table((*(() if words else ("kind",)), "id", "summary", "needs", "from"), table)
    for note in hints.listed(registry.default().plugins):
        print(note, file=sys.stderr)
    return 0


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plugins(argv: list[str]) -> int:
    words, flags = _split(argv, ["--json"])
    if words:
        raise ConfigError(f"`cookbook plugins` takes no {words[0]!r}")
    plugins = [*registry.default().plugins, *hints.stale()]
    if "--json" in flags:
        print(json.dumps([plugin.as_json() for plugin in plugins], indent=1))
        return 0
    for plugin in plugins:
        print(f"{plugin.namespace}: {plugin.dist} {plugin.version}, {plugin.status}, {len(plugin.rows)} rows")
        for problem in plugin.problems:
            print(f"  {problem}")
    return 0


def _show(argv: list[str]) -> int:
    words, _ = _split(argv)
    if len(words) != 1:
        raise ConfigError("`cookbook show` takes one id, `cookbook show math/arithmetic` for instance")
    for i, row in enumerate(registry.default().find_all(words[0])):
        print(("\n" if i else "") + _description(row))
    return 0


def _description(row: Row) -> str:
    import inspect

    import chz

    from . import configs, launch

    target = row.load()
    lines = [f"{row.kind} {row.id}: {row.summary}", f"  from {row.dist} {row.version}"]
    code = getattr(target, "func", target)
    lines.append(f"  code {row.target}, {inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]}")
    if row.needs:
        lines.append(f"  needs {', '.join(row.needs)}")
    if row.options:
        lines.append("  options of this row " + json.dumps(row.options))
    if row.kind == "recipe":
        blueprint = launch.blueprint_of(row)
        lines += [
            f"  {k}={v}" for _, values in configs.layers_of(blueprint) for k, v in sorted(values.items())
        ]
        lines.append(f"  all options: `cookbook run {row.id} --help`")
    elif chz.is_chz(code):
        lines.append(configs.help_text(code, [("this row", row.options)]))
        lines += [_choices(*item) for item in getattr(code, "choices", {}).items()]
    elif row.kind != "command":
        lines.append(f"  called as {code.__name__}{inspect.signature(code)}")
    return "\n".join(lines)


def _choices(option: str, notes: Mapping[str, str]) -> str:
    import textwrap

    noted = [f"  {value}: {note}" for value, note in notes.items() if note]
    return "\n".join([textwrap.fill(f"{option}: {', '.join(notes)}", 110, subsequent_indent="  "), *noted])


def _run(argv: list[str]) -> int:
    words, flags = _split(argv, ["--local", "--dry-run", "--help", "-h"], ["--name", "--from"])
    if "--from" in flags:
        return _run_from(argv, words, flags)
    if not words or "=" in words[0]:
        raise ConfigError("`cookbook run` needs a recipe's id first; `cookbook list recipe` shows them")
    row = registry.find("recipe", words[0])
    from . import configs, launch

    blueprint = launch.blueprint_of(row)
    layers = configs.layers_of(blueprint)
    if "--local" in flags:
        layers.append(("local", launch.local_values(blueprint)))
    layers.append(configs.from_argv(words[1:]))
    return _settled(row, blueprint, layers, argv, flags)


def _run_from(argv: list[str], words: list[str], flags: dict[str, Any]) -> int:
    """A new run of an equal config, and what has changed since; options on the command line come last."""
    from . import configs, runs

    folder = runs.find_run(flags["--from"])
    record, row, blueprint = _recorded(folder)
    if "--local" in flags or (words and "=" not in words[0]):
        raise ConfigError("`cookbook run --from RUN` takes the recipe and its place from RUN; leave them out")
    layers = [(f"run {folder.name}", record["config"]), configs.from_argv(words)]
    _tell_drift(row, configs.settle(blueprint.target, layers), record)
    return _settled(row, blueprint, layers, argv, flags)


def _recorded(folder: Any) -> tuple[dict[str, Any], Row, Any]:
    from .launch import blueprint_of
    from .runs import read_record

    record = read_record(folder)
    if "recipe" not in record:
        raise ConfigError(f"{folder}/record.json can't be read; start a new run with `cookbook run`")
    row = registry.find("recipe", record["recipe"])
    return record, row, blueprint_of(row)


def _tell_drift(row: Row, settled: Settled, record: dict[str, Any]) -> None:
    from .provenance import drift

    for line in drift(row, settled, record):
        print(f"cookbook: since that run, {line}", file=sys.stderr)


def _settled(row: Row, blueprint: Any, layers: Any, argv: list[str], flags: dict[str, Any]) -> int:
    from . import configs

    if {"--help", "-h"} & set(flags):
        text = configs.help_text(blueprint.target, layers, color=sys.stdout.isatty())
        print(f"{row.id}: {row.summary}\n\n{text}")
        return 0
    settled = configs.settle(blueprint.target, layers)
    for line in settled.dropped:
        print(f"cookbook: {line}", file=sys.stderr)
    if "--dry-run" in flags:
        import asyncio

        print(asyncio.run(settled.config.dry_run()))
        return 0
    from .launch import start
    from .provenance import provenance
    from .runs import Run, new_folder

    start(Run(new_folder(row.id, flags.get("--name")), provenance(row, argv, settled)), settled.config)
    return 0


def _resume(argv: list[str]) -> int:
    words, _ = _split(argv)
    if len(words) != 1:
        raise ConfigError("`cookbook resume` takes one run and no options; `cookbook runs` shows the runs")
    from . import configs, launch, runs

    folder = runs.find_run(words[0])
    record, row, blueprint = _recorded(folder)
    settled = configs.settle(blueprint.target, [(f"run {folder.name}", record["config"])])
    _tell_drift(row, settled, record)
    launch.start(runs.Run.reopen(folder), settled.config)
    return 0


def _runs(argv: list[str]) -> int:
    words, _ = _split(argv)
    if words:
        raise ConfigError(f"`cookbook runs` takes no {words[0]!r}")
    from . import runs

    folders = runs.list_runs()
    if not folders:
        print(f"no runs in {runs.runs_dir()} yet; `cookbook run math/arithmetic` makes one", file=sys.stderr)
        return 0
    _print_table(("run", "status", "step", *_RUN_CELLS), [_run_line(folder) for folder in folders])
    return 0


_RUN_CELLS = ("correct", "reward", "nll")


def _run_line(folder: Any) -> tuple[str, ...]:
    from . import runs

    record, rows = runs.read_record(folder), runs.read_rows(folder)
    evaluations = [] if rows else runs.read_rows(folder, "evaluations.jsonl")  # of what trains nothing
    found = [{k.removeprefix("eval/"): v for k, v in row.items()} for row in [*evaluations, *rows]]
    last = next((row for row in reversed(found) if set(_RUN_CELLS) & set(row)), {})
    cells = (f"{last[name]:.3f}" if name in last else "" for name in _RUN_CELLS)
    if not rows and record["status"] == "running":
        rows = runs.read_rows(folder, "episodes.jsonl")  # of an evaluation, whose steps are tasks
    steps = [row["step"] + 1 for row in rows[-1:]]  # of a killed run, more than its record has
    return (folder.name, runs.status(folder), str(max([record["last_step"] or 0, *steps])), *cells)


def _render(argv: list[str]) -> int:
    from . import render_command

    return _with_help(render_command, argv)


def _with_help(command: Any, argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(command.HELP, end="")
        return 0
    name = command.__name__.rpartition(".")[2].removesuffix("_command")
    return command.main(*_split(argv, command.SWITCHES, command.VALUED, f"{name} "))


def _check(argv: list[str]) -> int:
    from . import check_command

    return _with_help(check_command, argv)


def _new(argv: list[str]) -> int:
    from . import new_command

    return _with_help(new_command, argv)


def _eval(argv: list[str]) -> int:
    from . import eval_command

    return eval_command.main(*_split(argv, eval_command.SWITCHES, eval_command.VALUED, "eval "), argv)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": _list,
    "show": _show,
    "run": _run,
    "resume": _resume,
    "eval": _eval,
    "runs": _runs,
    "plugins": _plugins,
    "render": _render,
    "check": _check,
    "new": _new,
}

if __name__ == "__main__":
    sys.exit(main())
