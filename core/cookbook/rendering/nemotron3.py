"""Nemotron 3 (Nano, Super, Ultra): ChatML that always has a system message, reasoning that is marked even
where there is none, calls in XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .base import Tools
from .draft import Draft
from .messages import Plain, only_text
from .reading import Framing, Tagged, Tags, write_broken
from .tokenizers import Tokenizer
from .tools import Call, Unparsed, function_of, schema_of, to_json, xml_calls

_EMPTY = "<think></think>"


class Nemotron3(Tagged):
    """size: whose template. thinking: False, the prompt gives an empty reasoning. preserve_thinking: earlier
    reasoning stays when a user has spoken again. effort: "low" of Super and "efficient" of Ultra, which the
    last user's message asks for."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        size: Literal["nano", "super", "ultra"] = "nano",
        thinking: bool = True,
        preserve_thinking: bool = False,
        effort: Literal["full", "low", "efficient"] = "full",
        hf_parity: bool = False,
    ) -> None:
        super().__init__(tokenizer, hf_parity=hf_parity)
        self.size, self.thinking, self.preserve_thinking, self.effort = (
            size,
            thinking,
            preserve_thinking,
            effort,
        )
        self._tags = Tags.of(tokenizer, "<think>", "</think>", "<tool_call>", "</tool_call>")
        self._header, self._end = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")
        after = ("", "") if size == "ultra" else ("\n", "\n")
        self._framing = Framing(before_end_think=after[0], after_end_think=after[1])
        never, why = ("no reasoning", "opens one") if thinking else ("reasoning", "gives an empty one")
        self.exceptions = {
            "white space": "it trims content and reasoning",
            "inline reasoning": "a text that begins with <think>...</think> has its reasoning in it",
            **xml_calls.EXCEPTIONS,
            never: f"the prompt {why}",
        }

    def _write(self, out: Draft, messages: Sequence[Plain], tools: Tools, prompt: bool) -> None:
        first = self._write_system(out, messages, tools)
        query = max([i for i, message in enumerate(messages) if message.role == "user"], default=-1)
        for i, message in enumerate(messages[first:], first):
            out.begin(i, reply=message.role == "assistant")
            if message.role == "assistant":
                out.header("\n<|im_start|>assistant\n")
                self._write_reply(out, message, self.preserve_thinking or i >= query)
                out.stop("<|im_end|>")
            elif message.role == "tool":
                grouped = i > first and messages[i - 1].role == "tool"
                out.header("" if grouped or i == first else "\n<|im_start|>user")
                out.header("\n<tool_response>\n")
                out.text(only_text(message, "Nemotron3"))
                out.stop("\n</tool_response>")
                if i + 1 == len(messages) or messages[i + 1].role != "tool":
                    out.stop("\n<|im_end|>")
            else:
                out.header("\n<|im_start|>")
                out.text(message.role, "header")
                out.header("\n")
                out.text(only_text(message, "Nemotron3"))
                if i == query and self.effort != "full":
                    out.own(f"\n\n{{reasoning effort: {self.effort}}}")
                out.stop("<|im_end|>")
        if prompt:
            out.begin(len(messages), reply=True)
            out.header("\n<|im_start|>assistant\n")
            out.header("<think>\n" if self.thinking else _EMPTY)

    def _write_system(self, out: Draft, messages: Sequence[Plain], tools: Tools) -> int:
        """The system message, empty where there is none; returns how many messages it contains."""
        has_system = bool(messages) and messages[0].role == "system"
        content = only_text(messages[0], "Nemotron3") if has_system else ""
        out.begin(0 if has_system else None)
        out.header("<|im_start|>system\n")
        out.text(content)
        if tools:
            out.own("\n\n" if content else "")
            out.own(f"{xml_calls.TOOLS}<tools>")
            for tool in tools:
                out.text(_declaration(function_of(tool)))
            out.own(f"\n</tools>{xml_calls.RULES}")
        out.stop("<|im_end|>")
        return int(has_system)

    def _write_reply(self, out: Draft, message: Plain, reasoned: bool) -> None:
        """reasoned: its reasoning stands; else an empty one. The template writes one text, reasoning and all,
        and trims the whole."""
        text = only_text(message, "Nemotron3", calls=True)
        thinking = (message.thinking or "").strip()
        inline, rest = "", text
        if not thinking and (self.hf_parity or text.lstrip().startswith("<think>")):
            inline, tag, rest = text.rpartition("</think>")
            inline += tag
        if thinking and not reasoned and self.hf_parity:  # the template looks for the last tag
            rest = text.rpartition("</think>")[2]
        bare = not thinking and not inline and self.hf_parity and "<think>" in text
        joint = "\n" if thinking and self.size != "ultra" and rest == text else ""
        if not reasoned:
            if not message.calls and (bare or (inline and "<think>" not in inline)):
                out.text(f"{inline}{rest}".strip())
            else:
                out.header(_EMPTY)
                rest = joint + (rest.split("<think>")[0] if bare else rest)
                stripped = self.size != "ultra" and message.calls
                out.text(rest.strip() if stripped else rest if message.calls else rest.rstrip())
        elif thinking:
            (out.header if self.thinking else out.own)("<think>\n")
            out.text(message.thinking or "")
            out.own("</think>" if self.size == "ultra" else "\n</think>")
            if rest.strip():
                out.own(joint)
                out.text(rest.rstrip())
        elif inline or bare:
            self._write_inline(out, inline.lstrip(), rest.rstrip() if inline else rest.strip())
        else:
            out.header(_EMPTY)  # given, as to a model that is told not to reason
            out.text(rest.rstrip())
        for call in message.calls:
            out.own("\n")
            xml_calls.write(out, call, json_values=False)
        write_broken(out, message, "\n")
        out.own("\n" if message.calls or message.broken else "")

    def _write_inline(self, out: Draft, inline: str, rest: str) -> None:
        """A text that brings its own reasoning, tags and all."""
        if self.hf_parity:
            out.text(inline)
        elif inline:
            thinking = inline.removeprefix("<think>").removesuffix("</think>")
            given = self.thinking and thinking.startswith("\n")  # the prompt gives both
            (out.header if given else out.own)("<think>\n" if given else "<think>")
            out.text(thinking[given:])
            out.own("</think>")
        out.text(rest)

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        return xml_calls.read(self.tokenizer.decode(token_ids), tools)

    def _edits(self, token_ids: Sequence[int], messages: Sequence[Plain]) -> bool:
        """Once a user has spoken, reasoning is left out, an empty one aside, and the effort has moved."""
        if not any(message.role == "user" for message in messages):
            return False
        thoughts = zip(token_ids, [*token_ids[1:], None], strict=True)
        reasoned = any(id == self._tags.think and after != self._tags.end_think for id, after in thoughts)
        return self.effort != "full" or (reasoned and not self.preserve_thinking)


def _declaration(tool: Mapping[str, Any]) -> str:
    """A tool as tags: name, description, parameters, then whatever else its declaration has."""
    lines = ["", "<function>", f"<name>{tool['name']}</name>"]
    if "description" in tool:
        lines.append(f"<description>{tool['description'].strip()}</description>")
    lines.append("<parameters>")
    schema = schema_of(tool.get("parameters"))
    for name, fields in schema_of(schema.get("properties")).items():
        fields = schema_of(fields)
        lines += ["<parameter>", f"<name>{name}</name>"]
        if "type" in fields:
            lines.append(f"<type>{fields['type']}</type>")
        if "description" in fields:
            lines.append(f"<description>{str(fields['description']).strip()}</description>")
        if "enum" in fields:
            lines.append(f"<enum>{to_json(fields['enum'])}</enum>")
        lines += [*_others(fields, ("name", "type", "description", "enum")), "</parameter>"]
    lines += _others(schema, ("type", "properties", "required"))
    if "required" in schema:
        lines.append(f"<required>{to_json(schema['required'])}</required>")
    lines += ["</parameters>", *_others(tool, ("type", "name", "description", "parameters")), "</function>"]
    return "\n".join(lines)


def _others(fields: Mapping[str, Any], handled: Sequence[str]) -> list[str]:
    """What else a mapping has: containers as JSON, all else as Python prints it."""
    return [
        f"<{key}>{to_json(value) if isinstance(value, (dict, list, tuple)) else value}</{key}>"
        for key, value in fields.items()
        if key not in handled
    ]
