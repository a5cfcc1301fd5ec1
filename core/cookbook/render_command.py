"""`cookbook render`: what a conversation is for a model, token by token, before anything is trained on it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from . import files
from .configs import json_object
from .errors import ConfigError, CookbookError
from .registry import find, renderer_for_model
from .rendering import Rendered, Renderer, TrainOnWhat, get_renderer, load_tokenizer

_WHATS = [", ".join(part) for part in (get_args(TrainOnWhat)[:4], get_args(TrainOnWhat)[4:])]
HELP = f"""\
usage: cookbook render FILE.jsonl [--renderer ID] [--model MODEL] [--train-on WHAT] ...

Shows the tokens of conversations, one a line of FILE: {{"messages": [...], "tools": [...]}}, or the list of
messages alone. Of each token its id, the weight of its loss, the message it comes from (- for what the
format adds), and whether it is header, content or stop. Trained tokens are green.

  --renderer ID     the chat format; else the model's own. `cookbook list renderer` shows them
  --options JSON    its options, {{"current_date": "2026-01-31"}}
  --model MODEL     whose tokenizer: a folder with tokenizer.json, or a hub id; else the embedded model's
  --train-on WHAT   {_WHATS[0]};
                    {_WHATS[1]};
                    else all_assistant_messages
  --prompt          the prompt to the next reply instead of a supervised example
  --html FILE       a page to look at in a browser
  --json            for programs
"""
SWITCHES = ("--prompt", "--json")
VALUED = ("--renderer", "--options", "--model", "--train-on", "--html")
_PAGE = """\
<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>
body { font: 14px/1.7 ui-monospace, monospace; max-width: 60em; margin: 2em auto; padding: 0 1em }
span { border-radius: 2px; outline: 1px solid #0001; white-space: pre-wrap }
.trained { background: #b7eb9b } .content { color: #000 } .header, .stop { color: #777 }
.trained.stop { color: #060 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } .content { color: #eee }
.trained { background: #254d12 } .trained.stop { color: #9f9 } }
</style>
<p>{title}. Trained tokens are green, headers and stops grey; point at a token for its id.</p>
"""


def main(words: list[str], flags: dict[str, str]) -> int:
    """Runs the command, its flags taken apart; returns 0. Raises `CookbookError`, one line each, for what the
    user can mend."""
    if len(words) != 1:
        raise ConfigError("`cookbook render` takes one file of conversations; `cookbook render --help`")
    rows = _rows(Path(words[0]))
    renderer = _renderer(flags)
    what = "the prompt" if "--prompt" in flags else flags.get("--train-on", "all_assistant_messages")
    shown = [_render(renderer, messages, tools, what, at) for at, (messages, tools) in rows]
    if "--json" in flags:
        found = [{"tokens": tokens(rendered, renderer)} for rendered in shown]
        facts = {"renderer": renderer.id, "options": renderer.options, "train_on_what": what}
        print(json.dumps([{**facts, **each} for each in found], ensure_ascii=False))
    elif "--html" in flags:
        page = Path(flags["--html"])
        files.replace(page, as_html(shown, renderer, f"{renderer.id}, {what}").encode())
        print(f"{page}: {len(shown)} conversations")
    else:
        for n, rendered in enumerate(shown, 1):
            _print(rendered, renderer, f"conversation {n}, {renderer.id}, {what}")
    return 0


def tokens(rendered: Rendered, renderer: Renderer) -> list[dict[str, Any]]:
    """A row a token: its id, text, weight, message and kind."""
    rows = zip(rendered.token_ids, rendered.weights, rendered.origins, strict=True)
    return [
        {
            "id": id,
            "text": _text(renderer, id),
            "weight": weight,
            "message": origin.message,
            "kind": origin.kind,
        }
        for id, weight, origin in rows
    ]


def as_html(shown: Sequence[Rendered], renderer: Renderer, title: str) -> str:
    """A page of its own: every token's text in its place, its facts where it is pointed at."""
    parts = [_PAGE.replace("{title}", html.escape(title))]
    for n, rendered in enumerate(shown, 1):
        parts.append(f"<h3>conversation {n}: {_counts(rendered)}</h3>\n<p>")
        for row in tokens(rendered, renderer):
            source = "the format" if row["message"] is None else f"messages[{row['message']}]"
            facts = f"id {row['id']}, weight {row['weight']:g}, {row['kind']} of {source}"
            names = f"{row['kind']}{' trained' if row['weight'] else ''}"
            text = html.escape(row["text"]).replace("\n", "&#9166;\n")
            parts.append(f'<span class="{names}" title="{html.escape(facts)}">{text}</span>')
        parts.append("</p>\n")
    return "".join(parts)


def _text(renderer: Renderer, id: int) -> str:
    return "<image>" if id < 0 else renderer.tokenizer.decode([id])


def _counts(rendered: Rendered) -> str:
    trained = sum(weight > 0 for weight in rendered.weights)
    return f"{len(rendered.token_ids)} tokens, {trained} trained"


def _print(rendered: Rendered, renderer: Renderer, title: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{title}: {_counts(rendered)}", markup=False)
    console.print("      id  weight  message  kind     token", markup=False)
    for row in tokens(rendered, renderer):
        message = "-" if row["message"] is None else row["message"]
        line = f"{row['id']:>8}  {row['weight']:>6g}  {message:>7}  {row['kind']:<7}  {row['text']!r}"
        console.print(Text(line, style="green" if row["weight"] else "dim"))
    console.print()


def _renderer(flags: dict[str, str]) -> Renderer:
    if "--model" in flags:
        model, tokenizer = flags["--model"], load_tokenizer(flags["--model"])
    else:
        backend = find("backend", "local/torch").load()
        model = backend.default_model
        tokenizer = backend().tokenizer(model)
    id = flags.get("--renderer") or renderer_for_model(model)
    if id is None:
        raise ConfigError(f"no plugin knows the chat format of {model!r}; give --renderer, --renderer hf say")
    options = json_object("--options", flags.get("--options", ""))
    try:
        return get_renderer(id, tokenizer, **options)
    except CookbookError as e:
        if "--model" not in flags:
            e.add_note("--model gives another tokenizer than the embedded model's")
        raise


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else f"isn't UTF-8 from byte {e.start} on"
        raise ConfigError(f"{file}: {reason}; give a file of conversations, one a line") from None


def _rows(file: Path) -> list[tuple[int, tuple[list[Any], list[Any] | None]]]:
    """The line number, messages and tools of each conversation."""
    rows: list[tuple[int, tuple[list[Any], list[Any] | None]]] = []
    for at, line in enumerate(_read(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise ConfigError(f"{file}, line {at} is no JSON: {e}") from None
        messages = row.get("messages") if isinstance(row, dict) else row
        if not isinstance(messages, list):
            raise ConfigError(f'{file}, line {at} is no conversation; it must be {{"messages": [...]}}')
        rows.append((at, (messages, row.get("tools") if isinstance(row, dict) else None)))
    if not rows:
        raise ConfigError(f'{file} holds no conversation; each line must be {{"messages": [...]}}')
    return rows


def _render(
    renderer: Renderer, messages: list[Any], tools: list[Any] | None, what: Any, line: int
) -> Rendered:
    try:
        if what == "the prompt":
            return renderer.build_generation_prompt(messages, tools=tools)
        return renderer.build_supervised_example(messages, train_on_what=what, tools=tools)
    except CookbookError as e:
        e.add_note(f"it is the conversation of line {line}")
        raise
