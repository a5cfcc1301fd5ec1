"""The backend's config."""

import json

import pytest
import torch

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local.backend import TorchBackend


@pytest.fixture(autouse=True)
def one_thread(torch_threads):
    with torch_threads(1):
        yield


def one_line(error, text):
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_backend_connects_with_its_options(folder, tmp_path):
    backend = TorchBackend(dtype="float32", threads=1, token_budget=64, lora_alpha=4.0)
    with backend.connect(tmp_path / "run") as service:
        client = service.create_lora_training_client(str(folder), 4, 0).result()
        assert torch.get_num_threads() == 1
        assert (client._learner.model.dtype, client._learner.token_budget) == (torch.float32, 64)
        assert client._learner.lora.alpha == 4.0
        assert client.get_tokenizer().decode(client.get_tokenizer().encode("Hi")) == "Hi"


def test_the_description_names_what_bits_depend_on():
    facts = TorchBackend(threads=1).describe()
    assert set(facts) == {"device", "dtype", "threads", "torch", "processor", "cpu_capability"}
    assert facts["threads"] == 1  # also before it connects
    assert facts["dtype"] in ("bfloat16", "float32")
    assert TorchBackend().describe()["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("avx512", "amx", "dtype"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_dtype_auto_takes_what_the_processor_multiplies(monkeypatch, avx512, amx, dtype):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert TorchBackend().describe()["dtype"] == dtype
    assert TorchBackend(dtype="float32").describe()["dtype"] == "float32"


@pytest.mark.parametrize("options", [{"threads": -1}, {"token_budget": 0}, {"dtype": "float16"}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises((ConfigError, TypeError)) as error:
        TorchBackend(**options)
    one_line(error, next(iter(options)))


def test_the_context_is_read_from_the_config_and_no_weights_are(folder, tmp_path):
    assert TorchBackend().context(str(folder)) == 2048
    config = json.loads((folder / "config.json").read_text())
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()  # no weights, and nobody minds
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 77}))
    assert TorchBackend().context(str(tmp_path)) == 77
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError) as error:
        TorchBackend().context(str(tmp_path))
    one_line(error, "its config.json lacks max_position_embeddings")
    with pytest.raises(BackendError) as error:
        TorchBackend().context("no such model")
    one_line(error, "model 'no such model' is neither a folder here nor a name")
