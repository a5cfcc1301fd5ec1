"""This project's engine, through the client API."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tinker
from laps import Laps

from cookbook.runs import read_rows
from cookbook_plugin_local import ServiceClient
from cookbook_plugin_local.backend import TorchBackend

name = "cookbook"


def client(job: dict[str, Any]) -> Any:
    """A training client with a fresh LoRA on all matrices."""
    backend = TorchBackend(dtype=job["dtype"], device="cpu", lora_alpha=job["alpha"])
    service = ServiceClient(run_dir=Path(job["scratch"]) / "run", options=backend.options())
    return service.create_lora_training_client(job["model"], rank=job["rank"], seed=0).result()


def step(trainer: Any, job: dict[str, Any], batch: Sequence[Sequence[int]]) -> float:
    """One optimizer step. Returns the loss, a mean over all tokens."""
    targets = sum(len(chat) - 1 for chat in batch)
    data = [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(list(chat[:-1])),
            loss_fn_inputs={"target_tokens": list(chat[1:]), "weights": [1 / targets] * (len(chat) - 1)},
        )
        for chat in batch
    ]
    output = trainer.forward_backward(data, "cross_entropy")
    update = trainer.optim_step(tinker.AdamParams(learning_rate=job["lr"]))
    loss = output.result().metrics["loss:sum"]
    update.result()
    return loss


def train(job: dict[str, Any], batches: Sequence[Sequence[Sequence[int]]]) -> tuple[Laps, list[float]]:
    trainer, losses = client(job), []
    laps = Laps()
    for batch in batches:
        losses.append(step(trainer, job, batch))
        laps.lap()
    return laps, losses


def sampler(job: dict[str, Any]) -> Callable[[Sequence[Sequence[int]], int], int]:
    """Samples beside a LoRA that has learned a step, as training does; its log-probabilities come along."""
    trainer = client(job)
    step(trainer, job, job["learned"])
    sampling = trainer.save_weights_and_get_sampling_client().result()

    def play(prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        params = tinker.SamplingParams(max_tokens=max_tokens, temperature=1.0, stop=[])
        futures = [sampling.sample(tinker.ModelInput.from_ints(list(ids)), 1, params) for ids in prompts]
        return sum(len(future.result().sequences[0].tokens) for future in futures)

    return play


def reinforce(job: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """`cookbook run`, as a user runs it."""
    folder, run = Path(job["scratch"]), "rl"
    shutil.rmtree(folder / run, ignore_errors=True)
    words = ["run", *task["words"], "eval_every=0", "save_every=0", f"steps={task['steps']}"]
    words += [f"backend.dtype={job['dtype']}", "backend.device=cpu", f"seed={task['seed']}"]
    words += [f"groups_per_step={task['groups']}", f"group_size={task['size']}"]
    words += [f"max_tokens={task['max_tokens']}", f"lr={job['lr']}", f"lora_rank={job['rank']}"]
    words += ["trackers.0=local_plugins:Cpu", f"trackers.0.file={folder / 'cpu'}"]
    subprocess.run(
        [sys.executable, "-m", "cookbook.cli", *words, "--name", run],
        env=os.environ | {"COOKBOOK_RUNS": str(folder)},
        cwd=Path(__file__).parent.parent,  # where `local_plugins` is
        check=True,
        stdout=subprocess.DEVNULL,
    )
    rows = [row for row in read_rows(folder / run) if "reward" in row]
    return {
        "seconds": [row["time/step_s"] for row in rows],
        "cpu_s": [float(line) for line in (folder / "cpu").read_text().split()],
        "rewards": [row["reward"] for row in rows],
        "tokens": [row["tokens/sampled"] for row in rows],
    }
