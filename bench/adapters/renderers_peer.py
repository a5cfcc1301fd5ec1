"""tinker-cookbook's renderers. What its messages are made of is made before it is timed.

A renderer remembers nothing between calls. To make one copies the tokenizer without the words that this has
kept, so one serves all repeats: with a new one each it would be slower.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from tinker_cookbook.renderers import ToolCall, TrainOnWhat, get_renderer
from transformers import PreTrainedTokenizerFast

name = f"tinker-cookbook {importlib.metadata.version('tinker-cookbook')}"


class Side:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=job["tokenizer"])
        self.renderer = get_renderer(job["name"], self.tokenizer)

    def tokens(self, results: Sequence[Any]) -> int:
        return sum(each.length for each in results)

    def ways(self, kind: str) -> dict[str, Any]:
        work = {"prompts": _prompt, "examples": _example}.get(kind)
        if work is None:
            return {}
        conversations = [_conversation(each) for each in self.job[kind]]
        return {
            "": (lambda: self.renderer, lambda renderer: [work(renderer, *each) for each in conversations])
        }


def _conversation(conversation: Any) -> tuple[list[Any], str, list[Any] | None]:
    """Its messages; where it has tools, without the system message, whose text is given apart."""
    messages, tools = [_message(each) for each in conversation["messages"]], conversation.get("tools")
    if tools and messages[0]["role"] == "system":
        return messages[1:], messages[0]["content"], tools
    return messages, "", tools


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = [
        ToolCall(
            id=each["id"], function=ToolCall.FunctionBody(name=each["name"], arguments=each["arguments"])
        )
        for each in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _whole(renderer: Any, messages: list[Any], system: str, tools: list[Any] | None) -> list[Any]:
    return [*renderer.create_conversation_prefix_with_tools(tools, system), *messages] if tools else messages


def _prompt(renderer: Any, *conversation: Any) -> Any:
    return renderer.build_generation_prompt(_whole(renderer, *conversation))


def _example(renderer: Any, *conversation: Any) -> Any:
    return renderer.build_supervised_example(
        _whole(renderer, *conversation), TrainOnWhat.LAST_ASSISTANT_MESSAGE
    )[0]
