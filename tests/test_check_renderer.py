"""The check of chat formats: what is shipped passes, and each fault is found and named."""

import re

import pytest

from cookbook import registry
from cookbook.errors import RendererError
from cookbook.rendering import Parsed, Renderer, get_renderer
from cookbook.rendering.chatml import ChatML
from cookbook.testing import RULES, byte_tokenizer, check_renderer

pytestmark = pytest.mark.authors


class Plain(Renderer):
    """As small as a format can be."""

    end, start = "<|im_end|>", "<|im_start|>"

    def _write(self, out, messages, tools, prompt):
        for i, message in enumerate(messages):
            self.head(out, i, message.role)
            self.say(out, message)
            out.stop(self.end)
        if prompt:
            self.head(out, len(messages), "assistant")

    def head(self, out, i, role):
        out.begin(i, reply=role == "assistant")
        out.header(f"{self.start}{role}\n")
        out.border()

    def say(self, out, message):
        out.text(message.text)

    def get_stop_sequences(self):
        return [self.tokenizer.control(self.end)]


def rules(renderer, tokenizer=None):
    return {finding.rule: finding.example for finding in check_renderer(renderer, tokenizer).findings}


def test_a_healthy_format_breaks_nothing():
    report = check_renderer(Plain(byte_tokenizer()))
    assert report.findings == [] and report.unchecked == {}


class Raises(Plain):
    def _write(self, out, messages, tools, prompt):
        raise KeyError("system")


class ReadsLess(Plain):
    def _read(self, token_ids, prompt_ids, stop, tools):
        assert token_ids[0] >= 0
        return super()._read(token_ids, prompt_ids, stop, tools)


class ReadsParts(Plain):
    def _read(self, token_ids, prompt_ids, stop, tools):
        return {"role": "assistant", "content": [{"type": "text", "text": "a"}]}, ""


class OtherHeader(Plain):
    def head(self, out, i, role):
        out.begin(i, reply=role == "assistant")
        last = role == "assistant" and not out.trained
        out.header(f"{self.start}{role}{' ' if last else ''}\n")
        out.border()


class HeaderTrained(Plain):
    def build_generation_prompt(self, messages, **options):
        rendered = super().build_generation_prompt(messages, **options)
        rendered.weights[-1] = 1.0
        return rendered


class HalfWeights(Plain):
    def build_supervised_example(self, messages, **options):
        rendered = super().build_supervised_example(messages, **options)
        rendered.weights[:] = [w / 2 for w in rendered.weights]
        return rendered


class FewWeights(Plain):
    def build_supervised_example(self, messages, **options):
        rendered = super().build_supervised_example(messages, **options)
        del rendered.weights[0]
        return rendered


class StopUntrained(Plain):
    def build_supervised_example(self, messages, **options):
        rendered = super().build_supervised_example(messages, **options)
        rendered.weights[-1] = 0.0
        return rendered


class OtherStop(Plain):
    def get_stop_sequences(self):
        return [self.tokenizer.control("<|endoftext|>")]


class Trusting(Plain):
    def say(self, out, message):
        out.header(message.text) if message.role == "user" else out.text(message.text)


class ForgetsStop(Plain):
    def bridge(self, token_ids, stopped, messages):
        return super().bridge(token_ids, True, messages)


class Trims(Plain):
    def parse_response(self, token_ids, **options):
        parsed = super().parse_response(token_ids, **options)
        text = parsed.message["content"].replace("\n\n", "\n")
        return Parsed({**parsed.message, "content": text}, parsed.stopped, parsed.problem)


class Malformed(Plain):
    def _read(self, token_ids, prompt_ids, stop, tools):
        return {"role": "assistant", "content": self.tokenizer.decode(token_ids)}, "not well-formed"


FAULTS = {
    Raises: ("L1.renderer-builds", "KeyError"),
    ReadsLess: ("L1.renderer-parse", "IndexError|AssertionError"),
    ReadsParts: ("L1.renderer-parse", "are read as"),
    OtherHeader: ("L1.renderer-prompt", r"before 'a': .*assistant\\n', and as a prompt .*assistant \\n'"),
    HeaderTrained: ("L1.renderer-weights", "the prompt has weights that aren't 0"),
    HalfWeights: ("L1.renderer-weights", r"the example has the weights \[0.0, 0.5\]"),
    FewWeights: ("L1.renderer-weights", "tokens, .* weights"),
    StopUntrained: ("L1.renderer-stop", "the last token has weight 0"),
    OtherStop: ("L1.renderer-stop", "'a' is trained without a stop at its end"),
    Trusting: ("L1.renderer-control", r"'<\|im_\w+\|>' in the text of role 'user'"),
    ForgetsStop: ("L1.renderer-bridge", "after 'a', which was cut off"),
    Trims: ("L1.renderer-round-trip", r"'two\\n\\nparagraphs' is read as 'two\\nparagraphs'"),
    Malformed: ("L1.renderer-round-trip", "'a' is read as 'a' not well-formed"),
}


@pytest.mark.parametrize("format", FAULTS, ids=lambda format: format.__name__)
def test_one_fault_breaks_one_rule(format):
    rule, example = FAULTS[format]
    found = rules(format(byte_tokenizer()))
    found.pop("L1.renderer-round-trip", 0) if format is ReadsParts else None  # which is no text either
    assert list(found) == [rule] and re.search(example, found[rule]), found
    assert check_renderer(format(byte_tokenizer())).where == f"renderer {format.__name__}"


def test_every_rule_of_renderers_is_broken_by_one_of_these():
    assert {rule for rule, _ in FAULTS.values()} == {rule for rule in RULES if ".renderer-" in rule}


def test_an_id_that_is_not_there_is_a_finding_and_one_of_another_tokenizer_is_not_checked():
    assert "there is no renderer core/nothing" in rules("core/nothing")["L1.renderer-builds"]
    report = check_renderer("core/llama3")
    assert report.findings == []
    assert "has no control token '<|" in report.unchecked["L1.renderer-builds"]


def test_a_format_of_a_models_own_template_is_not_looked_for_on_the_hub(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    report = check_renderer("core/hf")
    assert report.findings == [] and report.unchecked


@pytest.mark.parametrize("id", ["core/chatml", "core/smollm2", "core/role_colon", "core/qwen3_instruct"])
def test_what_is_shipped_breaks_nothing_with_the_tokenizer_of_bytes(id):
    report = check_renderer(id)
    assert [str(finding) for finding in report.findings] == [] and report.unchecked == {}


@pytest.mark.parametrize("row", registry.default().rows("renderer"), ids=lambda row: row.id)
def test_what_is_shipped_breaks_nothing_with_its_own_tokenizer(row, kept_tokenizer):
    for name in ("qwen3", "smollm2", "gpt_oss"):
        try:
            made = get_renderer(row.id, kept_tokenizer(name))
        except RendererError:
            continue
        report = check_renderer(made)
        assert [str(finding) for finding in report.findings] == [] and report.where == f"renderer {row.id}"
        return
    pytest.skip("its tokenizer lies outside the repository")


def test_a_format_of_core_that_is_bent_is_found_out(tokenizer):
    class Bent(ChatML):
        def get_stop_sequences(self):
            return [0]

    assert set(rules(Bent(tokenizer))) == {"L1.renderer-stop"}
