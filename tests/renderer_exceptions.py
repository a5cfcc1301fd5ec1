"""What the exceptions that chat formats declare (`Renderer.exceptions`) mean: to which replies each applies,
and what is compared of a reply where it does."""

from __future__ import annotations

import functools
import json
import unicodedata


def reasoning(renderer, reply):
    """As much of it as the format says."""
    around = {"white space": None, "newlines": "\n"}
    said = reply.get("reasoning_content", "")
    return next((said.strip(around[name]) for name in around if name in renderer.exceptions), said)


def values(reply):
    return [
        (key, value)
        for c in reply.get("tool_calls", ())
        for key, value in json.loads(c["function"]["arguments"]).items()
    ]


APPLIES = {
    "reasoning": lambda renderer, reply, before: bool(reasoning(renderer, reply)),
    "no reasoning": lambda renderer, reply, before: not reasoning(renderer, reply),
    "empty reasoning split": lambda renderer, reply, before: not reasoning(renderer, reply),
    "reasoning left out": lambda renderer, reply, before: True,
    "reasoning after a tool": lambda renderer, reply, before: before == "tool",
    "trimmed when read": lambda renderer, reply, before: reply["content"] != reply["content"].strip(),
    "several calls": lambda renderer, reply, before: len(reply.get("tool_calls", ())) > 1,
    "inline reasoning": lambda renderer, reply, before: (
        reply["content"].lstrip().startswith("<think>") and "</think>" in reply["content"]
    ),
    "tags in arguments": lambda renderer, reply, before: any(
        tag in json.dumps(value)
        for _, value in values(reply)
        for tag in ("</parameter>", "<function=f>", "<tool_call>")
    ),
    "tags in text": lambda renderer, reply, before: "<tool_call>" in reply["content"],
    "undeclared types": lambda renderer, reply, before: any(
        (key == "any" and isinstance(value, str)) or (key == "note" and value in ("null", "None"))
        for key, value in values(reply)
    ),
}


EVERYWHERE = {"white space", "newlines", "argument text", "edits history"}
"""Exceptions about texts, compared without what the format trims or adds, and about whole conversations."""


def excepted(renderer, messages, *names):
    """Whether the format declares one of these exceptions and it applies to the last message."""
    reply, before = messages[-1], messages[-2]["role"]
    return any(name in renderer.exceptions and APPLIES[name](renderer, reply, before) for name in names)


def same_calls(renderer, message):
    """A message's calls: as written, or as values where the dialect doesn't write JSON."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    if "argument text" in renderer.exceptions:
        return [(call["name"], json.loads(call["arguments"])) for call in calls]
    return [(call["name"], call["arguments"].strip()) for call in calls]


def heard(renderer, messages):
    """The last message's text, reasoning and calls, as far as the format keeps them."""
    message = messages[-1]
    text, thought = message["content"], reasoning(renderer, message)
    if excepted(renderer, messages, "reasoning left out", "reasoning after a tool"):
        thought = ""
    if "white space" in renderer.exceptions:
        text = text.strip()
    elif "newlines" in renderer.exceptions:
        text = text.lstrip("\n")
    normalised = functools.partial(normal, renderer.tokenizer)
    calls = json.loads(normalised(json.dumps(same_calls(renderer, message), ensure_ascii=False)))
    return normalised(text), normalised(thought), calls


def spelt(tokenizer, text):
    """What its tokens spell: SmolLM2's vocabulary lacks some bytes."""
    return tokenizer.decode(tokenizer.encode(text))


def normal(tokenizer, text):
    """As the tokenizer normalises it: Qwen's composes letters and their accents."""
    return unicodedata.normalize("NFC", text) if spelt(tokenizer, "e\u0301") == "\u00e9" else text


def trimmed(renderer, messages):
    """The same, replies without the white space that the format may trim later, which a bridge doesn't."""
    if "white space" not in renderer.exceptions:
        return messages
    kept = {"content", "reasoning_content"}
    return [
        {
            key: value.strip() if key in kept and m["role"] == "assistant" else value
            for key, value in m.items()
        }
        for m in messages
    ]
