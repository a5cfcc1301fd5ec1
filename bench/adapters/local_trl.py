"""TRL's trainers, tuned as their options allow: nothing is checkpointed, logged, saved or evaluated, and no
batch is padded. Tried beside that: `torch_compile` (100 s to compile, and not faster); its packing and its
`padding_free` need flash attention, its Liger kernels a GPU.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from laps import Laps
from local_rewards import REWARDS
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

logging.disable_progress_bar()  # of loading
name = f"TRL {importlib.metadata.version('trl')}"
warnings.filterwarnings("ignore")

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model(job: dict[str, Any]) -> Any:
    """With a fresh LoRA of the model's own dtype, so that no product of it is in another."""
    bare = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa"
    )
    lora = LoraConfig(
        r=job["rank"],
        lora_alpha=job["alpha"],
        lora_dropout=0.0,
        target_modules=MATRICES,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    return get_peft_model(bare, lora, autocast_adapter_dtype=False)


def options(job: dict[str, Any], steps: int) -> dict[str, Any]:
    """Of both trainers. Adam is tinker's, without clipping."""
    return {
        "output_dir": job["scratch"],
        "max_steps": steps,
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-12,
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,  # the weights are in their dtype already
        "fp16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class Timed(TrainerCallback):
    """Laps of a trainer's optimizer steps."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.laps = Laps()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.laps.lap()


class Kept(SFTTrainer):
    """Keeps the losses."""

    def training_step(self, *words: Any, **options: Any) -> Any:
        loss = super().training_step(*words, **options)
        self.losses = [*getattr(self, "losses", []), loss]
        return loss


def train(job: dict[str, Any], batches: Sequence[Sequence[Sequence[int]]]) -> tuple[Laps, list[float]]:
    chats = [{"input_ids": chat, "labels": chat} for batch in batches for chat in batch]
    config = SFTConfig(
        **options(job, len(batches)),
        per_device_train_batch_size=len(batches[0]),
        train_sampling_strategy="sequential",
        packing=False,
        max_length=len(batches[0][0]),
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    timed = Timed()
    trainer = Kept(
        model=model(job),
        args=config,
        train_dataset=Dataset.from_list(chats),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        callbacks=[timed],
    )
    trainer.train()
    return timed.laps, [loss.item() for loss in trainer.losses]


def reinforce(job: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Dr. GRPO, as the recipe has it: no division by the group's std, none by a reply's length, no KL."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    prompts = [tokenizer.decode(each["ids"]) for each in task["prompts"]]
    same = tokenizer(prompts)["input_ids"] == [each["ids"] for each in task["prompts"]]
    assert same, "the texts, which are what the trainer takes, are of other tokens"
    rows = [
        {"prompt": p, "reference": each["reference"]}
        for p, each in zip(prompts, task["prompts"], strict=True)
    ]
    batch, steps = task["groups"] * task["size"], task["steps"]
    rewards, tokens = [], []

    def reward(completions: Any, completion_ids: Any, reference: Any, **_: Any) -> list[float]:
        found = [REWARDS[task["reward"]](*each) for each in zip(completions, reference, strict=True)]
        rewards.append(sum(found) / len(found))
        tokens.append(sum(len(ids) for ids in completion_ids))
        return found

    at_once = min(batch, task["at_once"])  # about 2000 tokens a pass, as ours
    config = GRPOConfig(
        **options(job, steps),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=batch // at_once,
        generation_batch_size=batch,
        num_generations=task["size"],
        max_completion_length=task["max_tokens"],
        shuffle_dataset=False,
        loss_type="dr_grpo",
        scale_rewards="none",
        beta=0.0,
        temperature=1.0,
        seed=task["seed"],
    )
    timed = Timed()
    trainer = GRPOTrainer(
        model=model(job),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[timed],
    )
    trainer.train()
    laps = timed.laps
    return {"seconds": laps.seconds, "cpu_s": laps.cpu_s, "rewards": rewards, "tokens": tokens}
