"""Runs of the command line on a `Peer`, and the same runs on the engine itself."""

from __future__ import annotations

import itertools
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import crashing
from wire_peer import KEY, Peer

from cookbook.cli import main

NUMBER = itertools.count()
KINDS = {
    "rl": [
        *crashing.RL,
        "steps=4",
        "max_lag=1",
        "kl_coef=0.1",
        "eval_every=2",
        "save_every=2",
        "keep_last=1",
    ],
    "sl": [*crashing.SL, "steps=4", "eval_every=2", "save_every=2", "keep_last=1", "grad_clip=0.5"],
}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """The folder of runs, of this process and of what its peers save."""
    home = tmp_path_factory.mktemp("wire")
    (home / "crashable.py").write_text(crashing.MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HOME", str(home))
        patch.setenv("COOKBOOK_RUNS", str(home / "runs"))
        patch.setenv("TINKER_API_KEY", KEY)
        patch.delenv("TINKER_BASE_URL", raising=False)
        yield home / "runs"


@pytest.fixture
def cook(capsys):
    """`cook(word, ...)`: the exit code, and all that a person would read, the SDK's log with it."""
    root = logging.getLogger()
    root.addHandler(logging.lastResort)

    def cook(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    yield cook
    root.removeHandler(logging.lastResort)


@pytest.fixture
def peer():
    with Peer() as peer:
        yield peer


@pytest.fixture
def run(cook, tiny_model):
    """`run(peer, kind, option, ...)`: a run on the peer, or with None on the engine; its name and result."""

    def run(peer, kind, *options):
        name = f"{kind}-{next(NUMBER)}"
        given = {option.split("=")[0] for option in options}
        words = [word for word in KINDS[kind] if word.split("=")[0] not in given]
        if peer is not None:
            words = [word for word in words if not word.startswith("backend")]
            words += ["backend=core/tinker", f"backend.base_url={peer.url}"]
        result = cook("run", *words, f"model={tiny_model}", *options, "--name", name)
        return SimpleNamespace(name=name, **vars(result))

    return run


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def engine(run, kept):
    """`engine(kind, option, ...)`: the run on the engine itself, run once."""

    def engine(*words):
        if words not in kept:
            kept[words] = run(None, *words)
            assert kept[words].code == 0
        return kept[words]

    return engine


@pytest.fixture
def equal(runs):
    """`equal(run, other)`: all rows of two runs, and all weights that they kept, to the bit."""

    def rows(name):
        """A checkpoint's paths begin with the name of what trained them."""
        found = crashing.rows(runs, name)
        for row in found["checkpoints.jsonl"]:
            row["path"] = row["path"].split("/", 3)[3]
            row["samplers"] = {at: path.split("/", 3)[3] for at, path in row.get("samplers", {}).items()}
        return found

    def weights(name):
        """Those that a checkpoint names and that are still there."""
        found = crashing.rows(runs, name)["checkpoints.jsonl"]
        paths = [path for row in found for path in (row["path"], *row.get("samplers", {}).values())]
        files = [
            file for path in paths for file in (runs / path.removeprefix("tinker://")).glob("*.safetensors")
        ]
        return {"/".join(file.parts[-3:]): load_file(file) for file in files}

    def equal(run, other):
        assert rows(run.name) == rows(other.name)
        found, expected = weights(run.name), weights(other.name)
        assert found.keys() == expected.keys() != set()
        for file, tensors in expected.items():
            assert tensors.keys() == found[file].keys()
            assert all((found[file][name] == tensor).all() for name, tensor in tensors.items()), file
        return True

    return equal
