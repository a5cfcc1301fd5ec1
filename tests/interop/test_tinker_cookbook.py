"""tinker-cookbook 0.6.1, unedited, on this machine: `python -m cookbook_plugin_local -m its.module ARGS`.

Run by `make test-interop`, in an environment of its own (`.interop/`). `supervised/train.main` and
`rl/train.main` are run by the package's own command lines, `recipes/chat_sl/train.py` and
`recipes/math_rl/train.py env=arithmetic`.

What stands in for something else:
- the model and its tokenizer: `--alias Qwen/Qwen3-4B-Instruct-2507=FOLDER`, so that the scripts' table of
  renderers knows the name. The folder is a random model of 92 000 parameters where training on given text
  is looked at, and the embedded model where rewards are.
- the hub's data: folders `HuggingFaceH4/no_robots` and `openai/gsm8k` where the script is started, in the
  schema of those data sets, of additions with one digit, the answers boxed as `rl_loop` wants them.
  `datasets.load_dataset` prefers a folder of that name to the hub. The hub's clients are told to stay
  offline.
- a model that knows how to box an answer, for `rl_loop`: it goes on from a state that `sl_loop` saved, by
  the row of a checkpoint in its log folder that both write and read.
"""

import json
import math
import os
import random
import subprocess
from pathlib import Path

import pytest

from cookbook_plugin_local import RestClient
from cookbook_plugin_local.models import EMBEDDED
from cookbook_plugin_local.tiny import make_tiny_llama

pytestmark = pytest.mark.interop

PYTHON = Path(__file__).parents[2] / ".interop" / "bin" / "python"
MODEL = "Qwen/Qwen3-4B-Instruct-2507"
RECIPES = "tinker_cookbook.recipes"
SUFFIX = " Provide a numerical answer without units, written inside \\boxed{}."


@pytest.fixture
def place(tmp_path):
    """A working folder in which the data sets lie."""
    generator = random.Random(0)
    pairs = [(generator.randrange(10), generator.randrange(10)) for _ in range(64)]
    chats = [_chat(f"What is {a} + {b}?{SUFFIX}", f"\\boxed{{{a + b}}}") for a, b in pairs]
    problems = [
        {"question": f"What is {a} + {b}?", "answer": f"It is {a + b}.\n#### {a + b}"} for a, b in pairs
    ]
    for rows, name in ((chats, "HuggingFaceH4/no_robots"), (problems, "openai/gsm8k")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for split, part in (("train", rows[:48]), ("test", rows[48:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = "[{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]"
    config = f"---\nconfigs:\n- config_name: main\n  data_files: {files}\n---\n"
    (tmp_path / "openai/gsm8k/README.md").write_text(config)
    return tmp_path


def _chat(question, answer):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": question, "messages": messages, "category": "Closed QA"}


@pytest.fixture
def run(place):
    """`run(module, folder of the model, key=value, ...)`: its rows of metrics, and of checkpoints."""

    def start(module, model, **arguments):
        log = place / "log"
        settings = {"model_name": MODEL, "log_path": log} | arguments
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf")}
        script = ["-m", f"{RECIPES}.{module}", *(f"{key}={value}" for key, value in settings.items())]
        done = subprocess.run(
            [PYTHON, "-m", "cookbook_plugin_local", "--alias", f"{MODEL}={model}", *script],
            cwd=place,
            env=os.environ | offline | {"COOKBOOK_RUNS": str(place / "runs"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-4000:]
        return [_rows(log / name) for name in ("metrics.jsonl", "checkpoints.jsonl")]

    return start


def _rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def _listed(place):
    """The paths of all saved weights, from another process than the one that saved them."""
    found = RestClient(runs=place / "runs", aliases={}).list_user_checkpoints().result()
    return {checkpoint.tinker_path for checkpoint in found.checkpoints}


def _paths(checkpoints):
    return {row[key] for row in checkpoints for key in ("state_path", "sampler_path") if key in row}


@pytest.fixture
def tiny(tmp_path):
    return make_tiny_llama(tmp_path / "tiny")


SUPERVISED = {"batch_size": 8, "lora_rank": 8, "learning_rate": 1e-2, "max_length": 512, "save_every": 2}


def test_sl_loop_learns_and_goes_on_from_its_checkpoint_to_the_bit(run, place, tiny):
    rows, checkpoints = run("sl_loop", tiny, **SUPERVISED, max_steps=5)
    losses = [row["train_mean_nll"] for row in rows]
    assert len(losses) == 5 and losses[-1] < losses[0] - 1
    assert [row["name"] for row in checkpoints] == ["000002", "000004", "final"]
    assert _listed(place) == _paths(checkpoints)

    (place / "log" / "checkpoints.jsonl").write_text(json.dumps(checkpoints[0]) + "\n")  # as if killed then
    rows, _ = run("sl_loop", tiny, **SUPERVISED, max_steps=5)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 2, 3, 4]
    assert [row["train_mean_nll"] for row in rows[5:]] == losses[2:]


def test_supervised_train_learns_and_evaluates(run, place, tiny):
    limits = {"max_steps": 5, "eval_every": 2, "behavior_if_log_dir_exists": "raise"}
    rows, checkpoints = run("chat_sl.train", tiny, **SUPERVISED, **limits)
    assert len(rows) == 5 and rows[-1]["train_mean_nll"] < rows[0]["train_mean_nll"] - 1
    evaluated = [row["test/nll"] for row in rows if "test/nll" in row]
    assert len(evaluated) == 3 and evaluated[-1] < evaluated[0] - 1
    assert _listed(place) == _paths(checkpoints)
    [weights] = RestClient(runs=place / "runs").list_training_runs().result().training_runs
    assert weights.user_metadata["renderer_name"] == "qwen3_instruct"


def test_rl_loop_goes_on_from_what_sl_loop_learnt(run, place):
    few = {"batch_size": 8, "lora_rank": 8, "learning_rate": 1e-3, "max_length": 512, "max_steps": 6}
    _, checkpoints = run("sl_loop", EMBEDDED, **few)
    start = {"name": "000000", "batch": 0, "state_path": checkpoints[-1]["state_path"]}
    (place / "log" / "checkpoints.jsonl").write_text(json.dumps(start) + "\n")
    (place / "log" / "metrics.jsonl").unlink()

    limits = {"max_tokens": 12, "max_steps": 3, "save_every": 2}
    sizes = {"batch_size": 4, "group_size": 8, "learning_rate": 1e-4}
    rows, checkpoints = run("rl_loop", EMBEDDED, loss_fn="importance_sampling", **limits, **sizes)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert any(row["reward/total"] > 0 for row in rows)
    norms = [row["grad_norm"] for row in rows if "grad_norm" in row]  # none where no group is mixed
    assert norms and all(0 < norm < math.inf for norm in norms)
    assert [row["name"] for row in checkpoints] == ["000000", "000002", "final"]
    assert _paths(checkpoints) < _listed(place)


def test_rl_train_learns_from_arithmetic_and_its_sampler_agrees_with_its_trainer(run, place):
    sizes = {"groups_per_batch": 4, "group_size": 4, "lora_rank": 8, "learning_rate": 1e-4}
    limits = {"max_steps": 3, "save_every": 2, "eval_every": 0, "behavior_if_log_dir_exists": "raise"}
    rows, checkpoints = run(
        "math_rl.train", EMBEDDED, env="arithmetic", loss_fn="importance_sampling", **sizes, **limits
    )
    steps = [row for row in rows if "grad_norm" in row]
    assert len(steps) == 3
    # A group of equal rewards has no advantages, and a token without one no log-probability to compare.
    mixed = [row for row in steps if row["env/all/by_group/frac_mixed"] == 1]
    assert mixed and all(0 < row["grad_norm"] < math.inf for row in mixed)
    assert all(row["optim/kl_sample_train_v2"] < 0.02 for row in mixed)
    assert [row["name"] for row in checkpoints] == ["000002", "final"]
    assert _listed(place) == _paths(checkpoints)
