"""What the clients of one service share: the engine's thread, the models, the folder of runs."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture

from cookbook.errors import BackendError
from cookbook.rendering import Tokenizer, load_tokenizer

from . import states
from .decoding import Decoder, Kit
from .engine import Engine
from .llama import Llama, Lora
from .models import find_model, lasting_name
from .states import State
from .training import Learner

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """dtype: of the frozen weights and the products. token_budget: rows of one forward and backward
    pass, part of what a run's bits depend on. alpha: the LoRA's scale is alpha / rank. checkpointing: see
    `Learner`. device: torch's name of where the model lies. packed: see `Kit`."""

    dtype: torch.dtype
    token_budget: int
    alpha: float
    checkpointing: bool = False
    device: str = "cpu"
    packed: bool = True


@dataclass(frozen=True)
class Base:
    """A frozen model. name: under which other processes find it too."""

    name: str
    folder: Path
    model: Llama
    tokenizer: Tokenizer

    @cached_property
    def transformers_tokenizer(self) -> Any:
        """The tokenizer as tinker's clients give it out: transformers' kind."""
        from transformers import AutoTokenizer  # a slow import that training and sampling don't need

        return AutoTokenizer.from_pretrained(str(self.folder))


_bases: WeakValueDictionary[tuple[Path, torch.dtype, str], Base] = WeakValueDictionary()
_loading = threading.Lock()


class Machine:
    """runs: the folder in which the folders of runs lie. aliases: folders of models, by the id under which
    scripts ask for them."""

    def __init__(self, runs: Path, options: Options, aliases: Mapping[str, str]) -> None:
        self.runs, self.options, self.aliases = runs, options, aliases
        self.engine = Engine()
        self._kits: dict[Path, tuple[Base, Kit]] = {}

    def submit(self, job: Callable[[], T]) -> AwaitableConcurrentFuture[T]:
        return AwaitableConcurrentFuture(self.engine.submit(job))

    def find(self, model: str) -> Path:
        """The folder of a model, asked for by its id, folder or alias. Raises `BackendError`."""
        return find_model(self.aliases.get(model, model))

    def called(self, base: Base) -> str:
        """A model's name as scripts know it: the alias, where it has one."""
        return called(base.name, self.aliases)

    def base(self, name: str, folder: Path | None = None) -> Base:
        """A model, loaded once in this process however often and by whatever name it is asked for."""
        folder = (folder or self.find(name)).resolve()
        dtype, device = self.options.dtype, self.options.device
        key = (folder, dtype, device)
        with _loading:
            base = _bases.get(key)
            if base is None:
                lasting = lasting_name(self.aliases.get(name, name))
                base = Base(lasting, folder, Llama(folder, dtype, device), load_tokenizer(folder))
                _bases[key] = base
        if folder not in self._kits:
            self._kits[folder] = base, Kit(base.model, base.tokenizer.decode, packed=self.options.packed)
        return base

    def decoder(self, base: Base, lora: Lora) -> Decoder:
        """What samples from these weights; for the engine's thread."""
        return Decoder(self._kits[base.folder][1], lora.to(base.model.device), self.engine.place())

    def open(
        self, path: str, base_model: str | None = None, *, optimizer: bool = False
    ) -> tuple[Base, State]:
        """Saved weights, and the model that they are for. Raises `BackendError` where either isn't there."""
        state = states.read(self.runs, path, optimizer=optimizer)
        name = base_model or state.base_model
        if not name:
            raise BackendError(f"{path} doesn't say which model it was trained on; give base_model")
        base = self.base(name)
        return base, state.fitting(base.model.shape)

    def learner(self, base: Base, state: State) -> Learner:
        """Trains those of the LoRA's parameters that the state trains; the others stay as they are."""
        options, lora = self.options, state.lora.to(base.model.device)
        learner = Learner(
            base.model, lora, options.token_budget, state.moments, checkpointing=options.checkpointing
        )
        for name in state.frozen:
            lora.parameters[name].requires_grad_(False)
        return learner

    def bare(self, base: Base) -> Lora:
        """A LoRA that changes nothing."""
        return Lora.fresh(base.model.shape, 1, self.options.alpha, seed=0).snapshot()

    def new_run(self) -> Path:
        """A folder for a training run of its own; the first save makes it."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return self.runs / f"tinker-{stamp}-{secrets.token_hex(4)}"


def called(name: str, aliases: Mapping[str, str]) -> str:
    """A model's lasting name as scripts know it."""
    return next((alias for alias, model in aliases.items() if lasting_name(model) == name), name)
