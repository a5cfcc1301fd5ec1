"""The backend's config: `backend=local/torch`."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import Any, Literal

import chz

from cookbook import BackendConfig
from cookbook.errors import ConfigError
from cookbook.rendering import Tokenizer, load_tokenizer

from .models import EMBEDDED, context_length, find_model


@chz.chz(typecheck=True)
class TorchBackend(BackendConfig):
    """Samples and trains in this process, on the processor or a GPU; no key."""

    default_model = EMBEDDED

    dtype: Literal["auto", "bfloat16", "float32"] = chz.field(
        default="auto", doc="of the frozen weights; auto: bfloat16 where the processor multiplies it"
    )
    threads: int = chz.field(default=0, doc="of torch; 0: as many as torch takes")
    device: str = chz.field(default="auto", doc="cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one")
    token_budget: int = chz.field(default=2048, doc="tokens in one forward and backward pass")
    checkpointing: bool = chz.field(
        default=False,
        doc="keep each layer's input alone for the gradient: less memory, a third more work",
    )
    packed: bool = chz.field(
        default=True,
        doc="on a processor, sample from a second copy of the weights that is laid out for it: faster",
    )
    lora_alpha: float = chz.field(default=32.0, doc="the LoRA is scaled by lora_alpha / lora_rank")

    @chz.validate
    def _check(self) -> None:
        cores = os.cpu_count() or 1
        if not 0 <= self.threads <= cores:
            raise ConfigError(f"threads={self.threads}: must be from 0 to {cores}, the cores there are")
        if self.token_budget < 1:
            raise ConfigError(f"token_budget={self.token_budget}: must be 1 or more")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device}: must be auto, cpu, cuda, or cuda:0 and so on")
        if not 0 < self.lora_alpha < math.inf:
            raise ConfigError(f"lora_alpha={self.lora_alpha}: must be more than 0, and finite")

    def tokenizer(self, model: str) -> Tokenizer:
        return load_tokenizer(find_model(model))

    def context(self, model: str) -> int:
        return context_length(model)

    def connect(self, run_dir: Path) -> Any:
        import torch

        from .client import ServiceClient

        if self.threads:
            torch.set_num_threads(self.threads)
        return ServiceClient(run_dir=run_dir, options=self.options())

    def options(self) -> Any:
        """The engine's `Options`."""
        import torch

        from .machine import Options

        return Options(
            getattr(torch, self._dtype()),
            self.token_budget,
            self.lora_alpha,
            self.checkpointing,
            self._device(),
            self.packed,
        )

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "device": self._device(),
            "dtype": self._dtype(),
            "threads": self.threads or torch.get_num_threads(),
            "torch": torch.__version__,
            "processor": processor(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }

    def _dtype(self) -> str:
        import torch

        if self.dtype != "auto":
            return self.dtype
        if self._device() == "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else:
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float32"

    def _device(self) -> str:
        """Raises `ConfigError` for a GPU that torch doesn't find."""
        import torch

        found = torch.cuda.device_count()
        if self.device == "auto":
            return "cuda:0" if found else "cpu"
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= found:
            raise ConfigError(f"device={self.device}: torch finds {found} GPUs; device=cpu runs anywhere")
        return str(device)


def processor() -> str:
    """The processor's name, as the system gives it, and how many cores there are."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
