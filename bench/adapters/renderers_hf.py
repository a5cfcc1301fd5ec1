"""transformers' `apply_chat_template` with the official template. Messages are put into its form before it is
timed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

name = f"transformers {importlib.metadata.version('transformers')}"


class Side:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=job["tokenizer"], chat_template=job["template"]
        )

    def tokens(self, results: Sequence[Sequence[int]]) -> int:
        return sum(map(len, results))

    def ways(self, kind: str) -> dict[str, Any]:
        if kind != "prompts":
            return {}
        as_text = "arguments is string" in self.job["template"]
        asked = [
            ([_message(message, as_text) for message in each["messages"]], _tools(each.get("tools")))
            for each in self.job[kind]
        ]
        return {"": (lambda: None, lambda _: [self.prompt(*each) for each in asked])}

    def prompt(self, messages: list[Any], tools: list[Any] | None) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=True, **self.job["kwargs"]
        )["input_ids"]


def _tools(tools: list[Any] | None) -> list[Any] | None:
    return [{"type": "function", "function": tool} for tool in tools] if tools else None


def _message(message: dict[str, Any], as_text: bool) -> dict[str, Any]:
    """Reasoning apart, one text, calls in OpenAI's form. as_text: the template takes arguments as they are
    written, else as an object."""
    found = dict(message)
    if not isinstance(message["content"], str):
        found["content"] = "".join(part.get("text", "") for part in message["content"])
        thinking = [part["thinking"] for part in message["content"] if part["type"] == "thinking"]
        found |= {"reasoning_content": "".join(thinking)} if thinking else {}
    if "tool_calls" in message:
        found["tool_calls"] = [
            {
                "id": each["id"],
                "type": "function",
                "function": {
                    "name": each["name"],
                    "arguments": each["arguments"] if as_text else json.loads(each["arguments"]),
                },
            }
            for each in message["tool_calls"]
        ]
    return found
