"""The hosted Tinker service, or any server that speaks its API; the SDK's clients, used as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chz

from ..errors import ConfigError
from ..kinds import BackendConfig
from ..rendering import Tokenizer, load_tokenizer


@chz.chz(typecheck=True)
class TinkerBackend(BackendConfig):
    """Needs a key: TINKER_API_KEY, or `tinker auth login`."""

    base_url: str | None = chz.field(
        default=None, doc="another server with the same API; TINKER_BASE_URL does the same"
    )

    @chz.validate
    def _check(self) -> None:
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url={self.base_url!r}: must begin with http:// or https://")

    def connect(self, run_dir: Path) -> Any:
        """A `tinker.ServiceClient`; whether it has a key and reaches its server shows at its first use."""
        from .service import Service

        return Service(base_url=self.base_url, user_metadata={"run": run_dir.name})

    def rest_client(self, service: Any) -> Any:
        import tinker

        return tinker.RestClient(base_url=self.base_url)

    def tokenizer(self, model: str) -> Tokenizer:
        """From the hub, under the name that the service takes it from: a variant, `org/model/variant`,
        has its model's; Llama 3's own is gated, the service's copy isn't."""
        if model.startswith("meta-llama/Llama-3"):
            return load_tokenizer("thinkingmachineslabinc/meta-llama-3-instruct-tokenizer")
        return load_tokenizer(model.rsplit("/", 1)[0] if model.count("/") == 2 else model)
