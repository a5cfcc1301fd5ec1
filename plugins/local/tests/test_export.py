"""`cookbook local export`: what PEFT and transformers are given is what was trained.

peft_adapter.json is what PEFT writes of a LoRA on every projection of the tiny Qwen3 of conftest.py, here
in $MODEL, made with torch 2.13.0, transformers 5.23.0 and peft 0.21.2:

    python - $MODEL > peft_adapter.json << END
    import json, sys, tempfile
    from pathlib import Path
    from peft import LoraConfig, get_peft_model
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=modules, task_type="CAUSAL_LM")
    out = Path(tempfile.mkdtemp())
    get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), config).save_pretrained(out)
    tensors = {k: list(v.shape) for k, v in sorted(load_file(out / "adapter_model.safetensors").items())}
    config = json.loads((out / "adapter_config.json").read_text())
    config["target_modules"].sort()
    print(json.dumps({"config": config, "tensors": tensors}, indent=1, sort_keys=True))
    END
"""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import tinker
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cookbook.cli import main
from cookbook.runs import Run
from cookbook_plugin_local.client import ServiceClient
from cookbook_plugin_local.machine import Options
from cookbook_plugin_local.models import find_model

FAMILIES = ["llama3", "linear", "qwen2", "qwen3"]
RANK, ALPHA = 4, 6.0
PEFT = json.loads((Path(__file__).parent / "peft_adapter.json").read_text())
IDS = np.random.default_rng(0).integers(3, 259, 60).tolist()
MERGED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def train(runs, model, name="test-run"):
    """A run of two steps, each with a checkpoint, whose record says what a run's does. Returns the
    log-probabilities of IDS by the weights of each."""
    run = Run(runs / name, {"recipe": "core/sl", "config": {"backend": "local/torch"}})
    run.begin()
    inputs = {"target_tokens": IDS[1:], "weights": [1.0] * (len(IDS) - 1)}
    datum = tinker.Datum(tinker.ModelInput.from_ints(IDS[:-1]), inputs)
    said = []
    with ServiceClient(run_dir=runs / name, options=Options(torch.float32, 256, ALPHA)) as service:
        client = service.create_lora_training_client(str(model), RANK, seed=0).result()
        for step in (1, 2):
            client.forward_backward([datum], "cross_entropy")
            client.optim_step(tinker.AdamParams(learning_rate=1e-2))
            run.checkpoint(step, client.save_state(f"step-{step}").result().path)
            sampler = client.save_weights_and_get_sampling_client().result()
            said.append(sampler.compute_logprobs(tinker.ModelInput.from_ints(IDS)).result()[1:])
    run.end("done")
    return np.array(said)


@torch.no_grad()
def logprobs(folder):
    """Of IDS by transformers."""
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = hf(torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)
    return found[torch.arange(len(IDS) - 1), IDS[1:]].numpy()


def export(*arguments):
    return main(["local", "export", *arguments])


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_say_in_transformers_what_the_run_said(families, runs, tmp_path, family):
    said = train(runs, families[family])
    assert export("last", "--merged", "merged") == 0
    np.testing.assert_allclose(logprobs(tmp_path / "merged"), said[1], atol=1e-4)
    assert abs(said[1] - logprobs(families[family])).max() > 0.1  # or else the comparison says nothing
    assert {file.name for file in (tmp_path / "merged").iterdir()} == MERGED
    assert {weight.dtype for weight in load_file("merged/model.safetensors").values()} == {
        np.dtype("float32")
    }


def test_merged_weights_are_a_model_here_and_bring_their_tokenizer(families, runs, tmp_path):
    train(runs, families["qwen2"])
    export("last", "--merged", "merged")
    assert find_model("merged") == Path("merged")
    text = "some text é 12"
    wanted, got = (AutoTokenizer.from_pretrained(place) for place in (families["qwen2"], tmp_path / "merged"))
    assert got(text).input_ids == wanted(text).input_ids


def test_a_base_in_bf16_and_several_files_is_merged_in_fp32(families, runs, tmp_path):
    base = tmp_path / "base"
    hf = AutoModelForCausalLM.from_pretrained(families["qwen3"], dtype=torch.bfloat16)
    hf.save_pretrained(base, max_shard_size="100KB")
    (base / "tokenizer.json").write_bytes((families["qwen3"] / "tokenizer.json").read_bytes())
    assert len(list(base.glob("*.safetensors"))) > 1
    said = train(runs, base)
    export("last", "--merged", "merged")
    np.testing.assert_allclose(logprobs(tmp_path / "merged"), said[1], atol=1e-4)
    assert json.loads(Path("merged/config.json").read_text())["dtype"] == "float32"


def test_an_adapter_has_the_names_shapes_and_settings_that_peft_writes(families, runs):
    train(runs, families["qwen3"])
    assert export("last", "--peft", "adapter") == 0
    weights = load_file("adapter/adapter_model.safetensors")
    assert {name: list(weight.shape) for name, weight in weights.items()} == PEFT["tensors"]
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    assert config.pop("base_model_name_or_path") == str(families["qwen3"])
    config["target_modules"].sort()
    assert config == {name: PEFT["config"][name] for name in config}
    assert {file.name for file in Path("adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("family", ["llama3", "qwen2"])
def test_an_adapter_applied_as_peft_does_says_what_the_run_said(families, runs, tmp_path, family):
    """W + lora_alpha / r B A, where the names of the tensors say."""
    said = train(runs, families[family])
    export("last", "--peft", "adapter")
    adapter = load_file("adapter/adapter_model.safetensors")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    hf = AutoModelForCausalLM.from_pretrained(families[family], dtype=torch.float32)
    for name in [name for name in adapter if ".lora_A." in name]:
        update = torch.from_numpy(adapter[name.replace("lora_A", "lora_B")] @ adapter[name])
        weight = hf.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
        weight.data += config["lora_alpha"] / config["r"] * update
    hf.save_pretrained(tmp_path / "applied")
    np.testing.assert_allclose(logprobs(tmp_path / "applied"), said[1], atol=1e-4)


def test_a_run_is_named_by_its_beginning_its_step_its_folder_or_its_path(families, runs, tmp_path, capsys):
    train(runs, families["llama3"], "first")
    names = ["fir@1", "runs/first@1", "tinker://first/weights/step-1", "first@2", "last"]
    for i, name in enumerate(names):
        assert export(name, "--peft", f"out/{i}") == 0
    first, *rest = (Path(f"out/{i}/adapter_model.safetensors").read_bytes() for i in range(5))
    assert [other == first for other in rest] == [True, True, False, False]
    assert rest[2] == rest[3]
    assert "tinker://first/weights/step-2: a PEFT adapter of rank 4 on" in capsys.readouterr().out


def test_both_forms_may_be_asked_for_at_once_and_an_empty_folder_is_filled(families, runs):
    train(runs, families["llama3"])
    Path("adapter").mkdir()
    assert export("last", "--peft", "adapter", "--merged", "deep/merged") == 0
    assert Path("adapter/adapter_config.json").is_file()
    assert Path("deep/merged/config.json").is_file()


def refusal(capsys, *arguments):
    """The one line."""
    assert export(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "takes one RUN, and --peft DIR or --merged DIR"),
        (["last"], "takes one RUN, and --peft DIR or --merged DIR"),
        (["last", "other", "--peft", "x"], "takes one RUN, and --peft DIR or --merged DIR"),
        (["last", "--peft"], "--peft needs a folder"),
        (["last", "--peft", "--merged", "x"], "--peft needs a folder"),
        (["last", "--pfet", "x"], "not '--pfet'"),
        (["last", "--peft", "x", "--merged", "./x"], "--peft and --merged both go to"),
        (["last", "--peft", "full"], "--peft full: there is something already"),
        (["last", "--merged", "full/file"], "--merged full/file: there is something already"),
        (["other", "--peft", "x"], "there is no run 'other'"),
        (["test-run@7", "--peft", "x"], "no checkpoint of step 7; it has 1, 2"),
        (["tinker://test-run/weights/other", "--peft", "x"], "no saved weights"),
        (["hosted", "--peft", "x"], "run hosted was on backend=core/tinker"),
    ],
)
def test_what_can_not_be_exported_is_one_line(folder, runs, capsys, arguments, reason):
    train(runs, folder)
    hosted = Run(runs / "hosted", {"config": {"backend": "core/tinker"}}, now=lambda: 0.0)
    hosted.begin()
    hosted.end("done")
    Path("full").mkdir()
    Path("full/file").touch()
    assert reason in refusal(capsys, *arguments)
    assert not Path("x").exists()


def test_a_base_model_that_went_away_or_changed_is_one_line(folder, families, runs, tmp_path, capsys):
    base = tmp_path / "base"
    base.mkdir()
    for file in folder.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    train(runs, base)
    (base / "config.json").write_bytes((families["qwen3"] / "config.json").read_bytes())
    assert "doesn't fit the model given" in refusal(capsys, "last", "--merged", "x")
    (base / "config.json").unlink()
    assert "holds no config.json" in refusal(capsys, "last", "--peft", "x")


@pytest.mark.parametrize("form", ["--peft", "--merged"])
def test_an_interruption_or_a_full_disk_leaves_nothing(folder, runs, monkeypatch, capsys, form):
    train(runs, folder)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    def full(*args, **options):
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    for save, code in ((interrupted, 130), (full, 1)):
        monkeypatch.setattr("safetensors.numpy.save_file", save)
        assert export("last", form, "out/x") == code
        assert list(Path("out").iterdir()) == []
    assert "No space left on device" in capsys.readouterr().err


def test_help_says_what_is_written(capsys):
    assert export("--help") == 0
    assert "usage: cookbook local export RUN [--peft DIR] [--merged DIR]" in capsys.readouterr().out
