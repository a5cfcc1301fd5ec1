"""This project's renderers, in their default mode: nobody's text is a control token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cookbook.rendering import Renderer, get_renderer, load_tokenizer

name = "cookbook"


class Side:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.tokenizer = load_tokenizer(Path(job["tokenizer"]).parent)
        self.raw = Tokenizer.from_file(job["tokenizer"])

    def renderer(self) -> Renderer:
        return get_renderer(f"core/{self.job['name']}", self.tokenizer)

    def tokens(self, results: Sequence[Sequence[int]]) -> int:
        return sum(map(len, results))

    def ways(self, kind: str) -> dict[str, Any]:
        return getattr(self, kind)(self.job[kind])

    def prompts(self, asked: Sequence[Any]) -> dict[str, Any]:
        """With a renderer for all conversations, and with one each, so that nothing is remembered."""
        return {
            "": (self.renderer, lambda renderer: [_prompt(renderer, each) for each in asked]),
            "apart": (
                lambda: [self.renderer() for _ in asked],
                lambda renderers: [_prompt(r, each) for r, each in zip(renderers, asked, strict=True)],
            ),
        }

    def examples(self, said: Sequence[Any]) -> dict[str, Any]:
        return {"": (self.renderer, lambda renderer: [_example(renderer, each) for each in said])}

    def long(self, asked: Sequence[Any]) -> dict[str, Any]:
        """Beside the tokenizer alone, given each prompt's text in one call."""
        renderer = self.renderer()
        texts = [self.raw.decode(_prompt(renderer, each), skip_special_tokens=False) for each in asked]
        encode = self.raw.encode
        return {
            "": (self.renderer, lambda renderer: [_prompt(renderer, each) for each in asked]),
            "bare": (
                lambda: None,
                lambda _: [encode(text, add_special_tokens=False).ids for text in texts],
            ),
        }

    def growing(self, conversations: Sequence[Any]) -> dict[str, Any]:
        """At each turn: a renderer that has rendered all turns before it, a new one, and what is appended to
        the tokens so far."""
        ways: dict[str, Any] = {}
        for turn in self.job["turns"]:
            asked = [{"messages": messages[: 2 * turn]} for messages in conversations]

            def grown(turn: int = turn) -> list[Renderer]:
                renderers = [self.renderer() for _ in conversations]
                for renderer, messages in zip(renderers, conversations, strict=True):
                    for before in range(1, turn):
                        _prompt(renderer, {"messages": messages[: 2 * before]})
                return renderers

            def anew() -> list[Renderer]:
                return [self.renderer() for _ in conversations]

            ways[f"kept {turn}"] = (grown, _each(asked))
            ways[f"anew {turn}"] = (anew, _each(asked))
            ways[f"bridge {turn}"] = (lambda turn=turn: self._bridges(conversations, turn), _bridged)
        return ways

    def _bridges(self, conversations: Sequence[Any], turn: int) -> list[tuple[Renderer, list[int], Any]]:
        """Renderers that have bridged all turns before, the tokens so far, and what comes next."""
        found = []
        for messages in conversations:
            renderer = self.renderer()
            so_far = _prompt(renderer, {"messages": messages[:2]})
            for at in range(2, 2 * turn, 2):
                reply, answer = messages[at], messages[at + 1]
                so_far += [*self.tokenizer.encode(reply["content"]), *renderer.get_stop_sequences()]
                if at + 2 == 2 * turn:
                    found.append((renderer, so_far, answer))
                else:
                    so_far += renderer.bridge(so_far, True, [answer])
        return found


def _prompt(renderer: Renderer, conversation: Any) -> list[int]:
    tools = conversation.get("tools")
    return renderer.build_generation_prompt(conversation["messages"], tools=tools).token_ids


def _example(renderer: Renderer, conversation: Any) -> list[int]:
    return renderer.build_supervised_example(
        conversation["messages"], train_on_what="last_assistant_message", tools=conversation.get("tools")
    ).token_ids


def _each(asked: Sequence[Any]) -> Callable[[list[Renderer]], list[list[int]]]:
    return lambda renderers: [_prompt(r, each) for r, each in zip(renderers, asked, strict=True)]


def _bridged(bridges: Any) -> list[list[int]]:
    return [renderer.bridge(so_far, True, [answer]) for renderer, so_far, answer in bridges]
