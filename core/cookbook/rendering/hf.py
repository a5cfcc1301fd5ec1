"""Any model through the chat template that comes with it (Jinja, as transformers has it)."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RendererError
from .base import Tools
from .draft import Draft
from .images import Image
from .messages import Plain
from .reading import Tagged, Tags
from .tokenizers import Tokenizer, model_file
from .tools import Call, Unparsed, json_calls, openai_tool, xml_calls

# Of the private use area: within a user's "<|im_end|>", which keeps it apart from the template's; and after
# a mark that was a user's own.
_MARK, _KEPT = "\ue000", "\ue001"
_TAKES_TEXT = re.compile(
    r"arguments['\"]?\]?\s+is\s+string|\+\s*\w+(\.|\[')(function)?('\])?(\.|\[')arguments"
)
_USER = Plain("user", ["?"])
_REPLY = Plain("assistant", ["!"])
_CALL = Plain("assistant", calls=[Call("f", "{}", "functions.f:0")])


class _Span(NamedTuple):
    """A message within the template's text: where it starts, where its content does, where its stop ends."""

    start: int
    content: int
    end: int


class HF(Tagged):
    """chat_template: the template, or a file that holds it; the model's own where none is given.
    template_options: what else the template takes, {"enable_thinking": False} say. current_date: YYYY-MM-DD,
    for templates that write it; today's where none is given.

    What a template is for can't be read off it, so it is found by differences: a reply is what the text of a
    conversation has more than the prompt to it. Where a template edits what came before (reasoning that is
    left out of history, say) there is no such difference, and training says so in one line;
    `build_supervised_examples` trains each reply after its own prompt.
    """

    exceptions = {
        "edits history": "a template may, so a conversation may not be trained as one",
        "reasoning left out": "a template may have no form for reasoning",
        "newlines": "those around reasoning, and before the text after it, may be the template's",
        "inline reasoning": "a template may take a text that begins with <think>...</think> for it",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        chat_template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        current_date: str | None = None,
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.chat_template = _template_of(tokenizer.name, chat_template)
        self.template_options = dict(template_options or {})
        self._special = _special_tokens(tokenizer.name)
        self.current_date = current_date or datetime.date.today().isoformat()
        # recorded: a run that goes on keeps them, whatever becomes of the file
        self.options = {"chat_template": self.chat_template, "current_date": self.current_date}
        if not tokenizer.byte_level or tokenizer.strips:
            raise RendererError(
                f"the tokenizer of {tokenizer.name!r} treats white space beside control tokens in a way of "
                "its own, which hf doesn't know; choose another with renderer=..."
            )
        self._json_arguments = _TAKES_TEXT.search(self.chat_template) is not None
        self._stops = self._found_stops()
        if not self._stops:
            raise RendererError(
                f"the chat template of {tokenizer.name!r} ends a reply without a control token, so nothing "
                "tells where it ends; choose another with renderer=..., `cookbook list renderer` shows them"
            )
        self._tags = Tags(
            *[_optional(tokenizer, name) for name in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
        )

    def _found_stops(self) -> list[int]:
        """The first control token after an answer; after a call, that one or else the last there is."""
        after = self._text([_USER, _REPLY], None, False).rpartition("!")[2]
        stops = [piece for piece in self.tokenizer.split(after) if isinstance(piece, int)][:1]
        prompt = self._text_or_none([_USER], None, True)
        called = self._text_or_none([_USER, _CALL], None, False)
        if stops and prompt is not None and called is not None and called.startswith(prompt):
            controls = [p for p in self.tokenizer.split(called[len(prompt) :]) if isinstance(p, int)]
            stops += [] if stops[0] in controls else controls[-1:]
        return stops

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        if any(isinstance(part, Image) for message in messages for part in message.parts):
            raise RendererError("the renderer hf has no form for images; choose core/qwen3_vl, say")
        text = self._text(messages, tools, prompt)
        at = 0
        for i, message in enumerate(messages):
            span = self._span(messages, i, tools, text, at)
            if span is None:
                if out.trained and i in out.trained:
                    raise RendererError(_EDITS.format(i=i, name=self.tokenizer.name))
                continue
            out.begin(i, reply=message.role == "assistant")
            self._pieces(out, text[at : span.content], "header")
            said, stop = self._parted(text[span.content : span.end])
            self._pieces(out, said, "content")
            self._pieces(out, stop, "stop")
            at = span.content + len(said) + len(stop)
        if prompt:
            out.begin(len(messages), reply=True)
        self._pieces(out, text[at:] if prompt else text[at:].rstrip(), "header")

    def _span(self, messages: Sequence[Plain], i: int, tools: Tools, text: str, at: int) -> _Span | None:
        """Where the message i stands in the text of the whole; None where differences don't tell."""
        before = self._text_or_none(messages[:i], tools, messages[i].role == "assistant")
        after = self._text_or_none(messages[: i + 1], tools, False)
        if before is None or after is None or len(before) < at or not text.startswith(before):
            return None
        # text that differs from `after` only in white space at the end of the last message still holds it
        end = len(after.rstrip())
        if not (after.startswith(before) and text.startswith(after.rstrip())):
            return None
        content = len(before)
        if messages[i].role != "assistant":
            words = self._literal(messages[i].text).strip()
            place = after.rfind(words, content, content + len(self._parted(after[content:])[0]))
            content = content if place < 0 else place
        return _Span(at, content, end) if content <= end else None

    def _parted(self, text: str) -> tuple[str, str]:
        """A message's content, and the control token that ends it: a stop, else the last there is."""
        found = list(self.tokenizer.controls_in(text))
        for match in [
            m for m in reversed(found) if self.tokenizer.control(m.group()) in self._stops
        ] or found[-1:]:
            return text[: match.start()], match.group()
        return text, ""

    def _pieces(self, out: Draft, text: str, kind: Any) -> None:
        pieces = self.tokenizer.split(text)
        out.add([_unmarked(piece) if isinstance(piece, str) else piece for piece in pieces], kind)

    def _literal(self, text: str) -> str:
        """A text in which no control token can be read."""
        if self.hf_parity:
            return text
        text = text.replace(_MARK, _MARK + _KEPT)
        text = self.tokenizer.sub_controls(lambda match: match.group()[0] + _MARK + match.group()[1:], text)
        starts, ends = self.tokenizer.control_parts
        longest = max(map(len, starts), default=0)
        # half a tag, whose other half the template may have
        if any(text[-n:] in starts for n in range(1, longest + 1)):
            text += _MARK
        return _MARK + text if any(text[:n] in ends for n in range(1, longest + 1)) else text

    def _text(self, messages: Sequence[Plain], tools: Tools, prompt: bool) -> str:
        try:
            return _compiled(self.chat_template).render(
                messages=[self._message(message) for message in messages],
                tools=[_mapped(openai_tool(tool), self._literal) for tool in tools] if tools else None,
                add_generation_prompt=prompt,
                strftime_now=datetime.date.fromisoformat(self.current_date).strftime,
                **{**self._special, **self.template_options},
            )
        except Exception as e:  # templates raise what they like
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise RendererError(
                f"the chat template of {self.tokenizer.name!r} refuses this: {reason}"
            ) from None

    def _text_or_none(self, messages: Sequence[Plain], tools: Tools, prompt: bool) -> str | None:
        if not messages and not prompt:
            return ""
        try:
            return self._text(messages, tools, prompt)
        except RendererError:
            return None

    def _message(self, message: Plain) -> dict[str, Any]:
        """As templates expect a message: reasoning apart, a call's arguments an object."""
        fields: dict[str, Any] = {"role": self._literal(message.role), "content": self._literal(message.text)}
        if message.thinking is not None:
            fields["reasoning_content"] = fields["thinking"] = self._literal(message.thinking)
        if message.calls:
            fields["tool_calls"] = [
                {
                    "id": call.id and self._literal(call.id),
                    "type": "function",
                    "function": {
                        "name": self._literal(call.name),
                        "arguments": self._arguments(call),
                    },
                }
                for call in message.calls
            ]
        optional = {"name": message.name, "tool_call_id": message.call_id}
        return {**fields, **{key: self._literal(value) for key, value in optional.items() if value}}

    def _arguments(self, call: Call) -> Any:
        """As they are written where the template takes a text, else an object."""
        if self._json_arguments:
            return self._literal(call.arguments)
        return _mapped(call.values("a tool call"), self._literal)

    def get_stop_sequences(self) -> list[int]:
        return self._stops

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        text = self.tokenizer.decode(token_ids)
        return xml_calls.read(text, tools) if "<function=" in text else json_calls.read(text)

    def _before(self, token_ids: Sequence[int]) -> list[Plain]:
        return [_USER, _REPLY]

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Whether a template edits what has reasoning in it can't be known; else it is tried."""
        if self._tags.think in token_ids:
            return True
        whole = self._text_or_none([_USER, _REPLY, *messages], None, True)
        so_far = self._text_or_none([_USER, _REPLY], None, False)
        return whole is None or so_far is None or not whole.startswith(so_far.rstrip())


_EDITS = (
    "messages[{i}] can't be trained within this conversation: the chat template of {name!r} writes what "
    "comes before it otherwise once it follows, or itself once others do; train the last reply alone "
    "(train_on_what=last_assistant_message), or each after its own prompt (build_supervised_examples)"
)


def _unmarked(text: str) -> str:
    return re.sub(f"{_MARK}({_KEPT}?)", lambda match: _MARK if match.group(1) else "", text)


def _optional(tokenizer: Tokenizer, name: str) -> int | None:
    try:
        return tokenizer.control(name)
    except RendererError:
        return None


def _mapped(value: Any, literal: Callable[[str], str]) -> Any:
    """The same value, all texts in it made literal."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, Mapping):
        return {literal(str(key)): _mapped(each, literal) for key, each in value.items()}
    return [_mapped(each, literal) for each in value] if isinstance(value, (list, tuple)) else value


def _template_of(model: str, given: str | None) -> str:
    """The template that is given, or the model's. Raises `RendererError` where there is none."""
    if given is not None:
        return given if "{" in given else Path(given).read_text()
    file = model_file(model, "chat_template.jinja")
    if file is not None:
        return file.read_text()
    template = _config(model).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    if not isinstance(template, str):
        raise RendererError(
            f"{model!r} has no chat template; give one, chat_template=FILE, or choose another with "
            "renderer=..., `cookbook list renderer` shows them"
        )
    return template


def _config(model: str) -> dict[str, Any]:
    file = model_file(model, "tokenizer_config.json")
    return json.loads(file.read_text()) if file is not None else {}


def _special_tokens(model: str) -> dict[str, str]:
    """bos_token, eos_token and their like, which templates name."""
    tokens: dict[str, str] = {"bos_token": "", "eos_token": ""}
    for key, value in _config(model).items():
        if key.endswith("_token") and value:
            tokens[key] = value["content"] if isinstance(value, Mapping) else str(value)
    return tokens


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """The template in the sandbox that transformers gives it: no attribute of Python within reach."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)
