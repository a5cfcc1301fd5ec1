"""`python -m cookbook_plugin_local SCRIPT ARGS`: somebody's Tinker script on this machine, unedited."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from cookbook.errors import ConfigError, CookbookError

from . import spin_less

USAGE = """\
python -m cookbook_plugin_local [--alias ID=FOLDER]... SCRIPT [ARGS]...
python -m cookbook_plugin_local [--alias ID=FOLDER]... -m MODULE [ARGS]...

Runs a script that uses tinker, as `python SCRIPT` would, with the clients of this machine in the place of
tinker.ServiceClient, TrainingClient, SamplingClient and RestClient. The script needs no key.

  --alias ID=FOLDER  where the script asks for the model ID, or for its tokenizer, it gets the model in
                     FOLDER (or the embedded one, by its name)

Weights are saved in folders of their own in $COOKBOOK_RUNS, or ./runs.
"""

_MODULES = (
    "tinker",
    "tinker.lib.public_interfaces",
    "tinker.lib.public_interfaces.service_client",
    "tinker.lib.public_interfaces.training_client",
    "tinker.lib.public_interfaces.sampling_client",
    "tinker.lib.public_interfaces.rest_client",
)
"""From where scripts import tinker's clients."""


def main(argv: Sequence[str]) -> None:
    """Runs a script, and ends as it ends."""
    try:
        aliases, module, rest = _parse(argv)
        take_place(aliases)
    except CookbookError as error:
        _fail(error)
    sys.excepthook = _report
    sys.argv = rest
    if module:
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    if not sys.flags.safe_path:  # then there is no entry for where Python was started
        sys.path[0] = str(Path(rest[0]).resolve().parent)
    _run_script(Path(rest[0]).absolute())


def _run_script(script: Path) -> None:
    """Not runpy's `run_path`: it would change what the script sees of sys.argv[0], or of __file__."""
    module = ModuleType("__main__")
    vars(module).update(__file__=str(script), __builtins__=builtins)
    sys.modules["__main__"] = module
    exec(compile(script.read_bytes(), script, "exec", dont_inherit=True), vars(module))


def _parse(argv: Sequence[str]) -> tuple[dict[str, str], bool, list[str]]:
    """The aliases, whether a module is to be run, and it with its arguments. Raises `ConfigError`."""
    rest, aliases = list(argv), {}
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        option, _, value = rest.pop(0).partition("=")
        if option in ("-h", "--help"):
            print(USAGE, end="")
            sys.exit(0)
        if option != "--alias":
            raise ConfigError(f"no option {option!r}; the script's own come after its name, see --help")
        value = value or (rest.pop(0) if rest else "")
        name, _, folder = value.partition("=")
        if not name or not folder:
            raise ConfigError(f"--alias {value!r}: give ID=FOLDER, like org/name=models/tiny")
        aliases[name] = folder
    module = rest[:1] == ["-m"]
    rest = rest[1:] if module else rest
    if not rest:
        raise ConfigError("give a script, or -m and a module; see --help")
    if not module and not Path(rest[0]).is_file():
        raise ConfigError(f"no script {rest[0]!r} here")
    if module and not _is_there(rest[0]):
        raise ConfigError(f"no module {rest[0]!r}")
    return aliases, module, rest


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def take_place(aliases: Mapping[str, str]) -> None:
    """Puts this machine's clients where scripts look for tinker's. Raises `BackendError` for an alias that
    leads to no model."""
    spin_less()
    for name in _MODULES:
        importlib.import_module(name)
    from .client import ServiceClient
    from .models import find_model, lasting_name
    from .rest import RestClient
    from .sampling_client import SamplingClient
    from .training_client import TrainingClient

    folders = {name: str(find_model(model).resolve()) for name, model in aliases.items()}
    lasting = {name: lasting_name(model) for name, model in aliases.items()}
    ServiceClient.aliases = RestClient.aliases = lasting
    for client in (ServiceClient, TrainingClient, SamplingClient, RestClient):
        for name in _MODULES:
            if hasattr(sys.modules[name], client.__name__):
                setattr(sys.modules[name], client.__name__, client)
    os.environ.setdefault("TINKER_API_KEY", "tml-local")  # scripts look whether there is one
    if folders:
        _alias_tokenizers(folders)


def _alias_tokenizers(folders: Mapping[str, str]) -> None:
    """transformers' tokenizers too: another model's would fit the weights by chance only."""
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained

    def from_pretrained(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        name = pretrained_model_name_or_path
        return plain(folders.get(str(name), name), *args, **kwargs)

    AutoTokenizer.from_pretrained = from_pretrained


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback that begins in the script, as with `python SCRIPT`."""
    inside = trace
    while inside and inside.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>"):
        inside = inside.tb_next
    if inside is None and not isinstance(error, SyntaxError):  # it isn't the script's
        inside = trace
    sys.__excepthook__(kind, error.with_traceback(inside), inside)


def _fail(error: CookbookError) -> NoReturn:
    print(f"cookbook_plugin_local: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
