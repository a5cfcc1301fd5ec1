"""The SDK's service client, as a run uses it."""

from __future__ import annotations

import logging
from types import TracebackType

import tinker

from .base import is_the_sdks

log = logging.getLogger("cookbook")
GOODBYE_S = 5.0
_REPEATED = ("api_future_impl", "retry_handler", "telemetry")
"""Modules of the SDK that log an error for each request, which is raised too, or what concerns no run."""


def _news(record: logging.LogRecord) -> bool:
    """When a request fails, the others are cancelled, and fail too; asyncio would tell of each that nobody
    heard its error."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Exception) and is_the_sdks(error))


class Service(tinker.ServiceClient):
    """Its end neither fails a run nor holds it up: whatever the run did is done, and the service ends a
    session that nobody speaks for."""

    def __enter__(self) -> Service:
        for name in _REPEATED:
            logging.getLogger(f"tinker.lib.{name}").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").addFilter(_news)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = "errored" if isinstance(error, Exception) else "interrupted"
        try:
            self.close("success" if error is None else failed).result(GOODBYE_S)
        except (tinker.TinkerError, TimeoutError) as e:
            log.info("the session wasn't ended: %s", e)
