"""The shape of tinker's clients: their older `_async` methods, and one line for what can't be here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, TypeVar

import tinker
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture

from cookbook.errors import BackendError

C = TypeVar("C", bound=type)
T = TypeVar("T")


class ServiceError(BackendError, tinker.TinkerError):
    """What the service would answer with an error too: a script that catches tinker's catches it."""


def shaped_like(sdk: type, refused: Mapping[str, str] = MappingProxyType({})) -> Callable[[C], C]:
    """A class decorator: adds the methods of tinker's class that ours doesn't write itself.

    refused: why a method can't be, by its name; it raises `ServiceError`, one line. Every `X_async` of the
    SDK calls X here, and gives what the SDK's gives: the future where that gives one, else its result. The
    SDK warns that these will go; a script that runs here has no use for the warning.
    """

    def shape(cls: C) -> C:
        for name, reason in refused.items():
            setattr(cls, name, _refusal(sdk, name, f"{cls.__name__}.{name}: {reason}"))
        for name, theirs in inspect.getmembers_static(sdk):
            if name.endswith("_async") and not name.startswith("_"):
                setattr(cls, name, _asynchronous(name, theirs))
        return cls

    return shape


def _refusal(sdk: type, name: str, line: str) -> Any:
    theirs = inspect.getattr_static(sdk, name)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ServiceError(f"local/torch: {line}")

    if isinstance(theirs, property):
        return property(refuse)
    if isinstance(theirs, staticmethod):
        return staticmethod(_named(refuse, name, theirs.__func__, line))
    return _named(refuse, name, theirs, line)


def _asynchronous(name: str, theirs: Callable[..., Any]) -> Any:
    plain = name.removesuffix("_async")
    gives_future = str(inspect.signature(theirs).return_annotation).startswith("APIFuture")

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(self, plain)(*args, **kwargs)
        return await answer if isinstance(answer, APIFuture) and not gives_future else answer

    return _named(call, name, theirs, f"As `{plain}`; the SDK calls this form deprecated.")


def _named(function: Any, name: str, theirs: Callable[..., Any], doc: str) -> Any:
    function.__name__, function.__doc__ = name, doc
    function.__signature__ = inspect.signature(theirs)
    return function


def at_once(job: Callable[[], T]) -> APIFuture[T]:
    """What `job` returns or raises, as a future that is done."""
    future: Future[T] = Future()
    try:
        future.set_result(job())
    except Exception as e:  # it is raised where the future is awaited
        future.set_exception(e)
    return AwaitableConcurrentFuture(future)
