"""The check of backends: the embedded engine and the table pass, and each fault is found and named."""

import dataclasses
import re

import chz
import numpy as np
import pytest
import tinker

from cookbook import BackendConfig
from cookbook.testing import RULES, Tabular, check_backend
from cookbook.testing.tabular import Answer, Table, TableClient, TableSampler, byte_tokenizer
from cookbook_plugin_local.backend import TorchBackend

pytestmark = pytest.mark.authors


def changed(sequence, **values):
    """The same sample, with other fields."""
    facts = {
        "stop_reason": sequence.stop_reason,
        "sequence_id": "x",
        "tokens_np": np.array(sequence.tokens, dtype=np.int32),
        "logprobs_np": np.array(sequence.logprobs, dtype=np.float32),
    }
    return tinker.SampleResponse(sequences=[tinker.SampledSequence(**{**facts, **values})])


class Client(TableClient):
    """With samplers of another class."""

    Sampler = TableSampler

    def sampler(self, table):
        return self.Sampler(table)


class NoAnswer(Client):
    def save_state(self, name, overwrite=False):
        raise NotImplementedError("save_state")


class Unseeded(Client):
    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            if sampling_params.temperature == 1 and not sampling_params.stop:
                sampling_params = sampling_params.model_copy(update={"seed": None})
            return await super().sample(prompt, num_samples, sampling_params)


class Warm(Client):
    """Temperature 0 isn't taken for what it is."""

    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            params = sampling_params.model_copy(update={"temperature": 1.0})
            return await super().sample(prompt, num_samples, params)


class Talkative(Client):
    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            params = sampling_params.model_copy(update={"max_tokens": sampling_params.max_tokens + 1})
            return await super().sample(prompt, num_samples, params)


class Endless(Client):
    """A stop isn't heeded."""

    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            return await super().sample(prompt, num_samples, sampling_params.model_copy(update={"stop": []}))


class WrongReason(Client):
    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            response = await super().sample(prompt, num_samples, sampling_params)
            return changed(response.sequences[0], stop_reason="length")


class FewLogprobs(Client):
    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            response = await super().sample(prompt, num_samples, sampling_params)
            logprobs = np.array(response.sequences[0].logprobs[:-1], dtype=np.float32)
            return changed(response.sequences[0], logprobs_np=logprobs)


class Tempered(Client):
    """Log-probabilities of half the logits' scale."""

    class Sampler(TableSampler):
        async def sample(self, prompt, num_samples, sampling_params):
            response = await super().sample(prompt, num_samples, sampling_params)
            logprobs = np.array(response.sequences[0].logprobs, dtype=np.float32) - 0.3
            return changed(response.sequences[0], logprobs_np=logprobs)


class Shifted(Client):
    """Log-probabilities stand a place too early."""

    def forward(self, data, loss_fn, loss_fn_config=None):
        output = super().forward(data, loss_fn, loss_fn_config).value
        for out in output.loss_fn_outputs:
            moved = np.roll(out["logprobs"].to_numpy(), -1)
            out["logprobs"] = tinker.TensorData.from_numpy(moved)
        return Answer(output)


class Idle(Client):
    def optim_step(self, adam):
        return Answer(tinker.OptimStepResponse(metrics={}))


class Uphill(Client):
    """The gradient's sign is wrong."""

    def optim_step(self, adam):
        self.summed = -self.summed
        return super().optim_step(adam)


class Decays(Client):
    """Weights change whatever the gradient and the rate are."""

    def optim_step(self, adam):
        self.table.logits[:, 0] += 0.5
        return super().optim_step(adam)


class OwnRate(Client):
    def optim_step(self, adam):
        return super().optim_step(adam.model_copy(update={"learning_rate": 0.1}))


class ForgetsWeights(Client):
    def create_training_client_from_state_with_optimizer(self, path):
        self.table = self.base.copy()
        return Answer(self)


class ForgetsMoments(Client):
    def create_training_client_from_state_with_optimizer(self, path):
        done = super().create_training_client_from_state_with_optimizer(path)
        self.moments, self.steps = np.zeros_like(self.moments), 0
        return done


class Shares(Client):
    """What is published is what is trained, from the second time on."""

    def save_weights_and_get_sampling_client(self):
        table, self.published = self.table if hasattr(self, "published") else self.table.copy(), True
        return Answer(self.sampler(table))


class Stale(Client):
    """What is published is what there was at first."""

    def save_weights_and_get_sampling_client(self):
        return Answer(self.sampler(self.base.copy()))


@chz.chz
class Made(BackendConfig):
    """A client of a class, over a table that is uneven, so that places can be told apart."""

    client: object

    def connect(self, run_dir):
        choices = byte_tokenizer().encode("0123456789")
        table = Table.uniform(choices, "all")
        logits = np.random.default_rng(0).standard_normal(table.logits.shape)
        return self.client(dataclasses.replace(table, logits=logits))

    def tokenizer(self, model):
        return byte_tokenizer()


@chz.chz
class Closed(Made):
    def connect(self, run_dir):
        raise ConnectionError("no server")


FAULTS = {
    NoAnswer: ("L1.backend-calls", "while it restores: NotImplementedError: save_state"),
    Unseeded: ("L2.backend-seed", r"seed 1 gave \["),
    Warm: ("L2.backend-greedy", "temperature 0 gave"),
    Talkative: ("L1.backend-sample", "7 tokens of max_tokens=6"),
    Endless: ("L1.backend-sample", "with the stop"),
    WrongReason: ("L1.backend-sample", "stop_reason 'length'"),
    FewLogprobs: ("L1.backend-logprobs", "6 tokens have the log-probabilities"),
    Tempered: ("L1.backend-logprobs", "0.3 apart"),
    Shifted: ("L1.backend-forward", r"forward \[.*, not \["),
    Idle: ("L1.backend-trains", "after six steps"),
    Uphill: ("L1.backend-trains", "after six steps"),
    Decays: ("L1.backend-idle", "advantages of 0 changed"),
    OwnRate: ("L1.backend-idle", "a learning rate of 0 changed"),
    ForgetsWeights: ("L1.backend-restores", "came back"),
    ForgetsMoments: ("L1.backend-restores", "a step after it leads"),
    Shares: ("L1.backend-version", "changed what was published"),
    Stale: ("L1.backend-version", "a new sampler says"),
}


def rules(backend, model="table"):
    return {finding.rule: finding.example for finding in check_backend(backend, model).findings}


def test_a_healthy_backend_breaks_nothing():
    assert rules(Made(client=Client)) == {}


@pytest.mark.parametrize("client", FAULTS, ids=lambda client: client.__name__)
def test_one_fault_breaks_one_rule(client):
    rule, example = FAULTS[client]
    found = rules(Made(client=client))
    assert list(found) == [rule] and re.search(example, found[rule]), found


def test_a_backend_that_does_not_connect_is_a_finding():
    assert rules(Closed(client=Client)) == {"L1.backend-connects": "ConnectionError: no server"}
    assert "no backend core/nothing" in rules("core/nothing")["L1.backend-connects"]


def test_a_tokenizer_that_breaks_is_a_finding():
    @chz.chz
    class Broken(BackendConfig):
        default_model = "x"

        def connect(self, run_dir):
            raise AssertionError("comes after the tokenizer")

        def tokenizer(self, model):
            raise FileNotFoundError(2, "No such file", "vocab.txt")

    (finding,) = check_backend(Broken()).findings
    assert finding.rule == "L1.backend-connects" and "vocab.txt" in finding.example


def test_without_a_model_nothing_is_looked_at():
    report = check_backend("core/tinker")
    assert (
        report.findings == [] and "check_backend(backend, model)" in report.unchecked["L1.backend-connects"]
    )


def test_a_model_that_is_not_there_is_no_fault_of_the_backend(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COOKBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = check_backend("local/torch")
    assert report.findings == [] and "cookbook local setup" in report.unchecked["L1.backend-connects"]


def test_every_rule_of_backends_is_broken_by_one_of_these():
    broken = {rule for rule, _ in FAULTS.values()} | {"L1.backend-connects"}
    assert broken == {rule for rule in RULES if ".backend-" in rule}


def test_the_table_and_the_embedded_engine_break_nothing(tiny_model):
    for backend, model in (
        (Tabular(), ""),
        (Tabular(sees="last"), "any"),
        (TorchBackend(dtype="float32", threads=1), str(tiny_model)),
        (TorchBackend(dtype="bfloat16", threads=1), str(tiny_model)),
    ):
        report = check_backend(backend, model)
        assert [str(finding) for finding in report.findings] == [] and report.unchecked == {}
