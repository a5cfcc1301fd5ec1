"""The hosted Tinker service, or any server that speaks its API; the SDK's clients, used as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chz

from ..configs import BackendConfig
from ..rendering import Tokenizer, load_tokenizer


@chz.chz(typecheck=True)
class TinkerBackend(BackendConfig):
    """Needs a key: TINKER_API_KEY, or `tinker auth login`."""

    base_url: str | None = chz.field(
        default=None, doc="another server with the same API; TINKER_BASE_URL does the same"
    )

    def connect(self, run_dir: Path) -> Any:
        """A `tinker.ServiceClient`; whether it has a key and reaches its server shows at its first use."""
        import tinker

        return tinker.ServiceClient(base_url=self.base_url, user_metadata={"run": run_dir.name})

    def tokenizer(self, model: str) -> Tokenizer:
        return load_tokenizer(model)
