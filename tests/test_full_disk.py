"""A disk without room ends a run in one line that says which file and what next; with room it goes on, its
bits those of a run that always had room."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

crashing = runpy.run_path(str(Path(__file__).with_name("crashing.py")))
rows = crashing["rows"]
WORDS = ["run", *crashing["RL"], "max_lag=1", "steps=4", "eval_every=2", "save_every=2", "--name", "a"]
LINE = "cookbook: No space left on device {file}"
RESUME = "; `cookbook resume a` goes on after step {step}"


@pytest.fixture(scope="module")
def cookbook(tmp_path_factory):
    with crashing["Crashing"](tmp_path_factory.mktemp("crashing")) as cookbook:
        yield cookbook


@pytest.fixture(scope="module")
def roomy(cookbook, tiny_model, tmp_path_factory):
    """The rows of a run that always had room."""
    runs = tmp_path_factory.mktemp("roomy")
    result = cookbook(runs, *WORDS, f"model={tiny_model}")
    assert (result.code, result.err) == (0, "")
    return rows(runs)


CASES = [  # operation, which one, the file that the line names, the step that a resume goes on after
    ("write a/record", 2, "record.json.part", 4),
    ("fsync a/record", 2, "record.json.part", 4),
    ("rename a/record", 2, "record.json", 4),
    ("create a/metrics", 1, "metrics.jsonl", 0),
    ("write a/metrics", 1, "metrics.jsonl", 0),
    ("write a/metrics", 4, "metrics.jsonl", 2),
    ("fsync a/metrics", 1, "metrics.jsonl", 0),
    ("fsync a/metrics", 2, "metrics.jsonl", 2),
    ("write a/evaluations", 1, "evaluations.jsonl", 0),
    ("write a/evaluations", 3, "evaluations.jsonl", 4),
    ("fsync a/evaluations", 2, "evaluations.jsonl", 2),
    ("write a/episodes", 3, "episodes.jsonl", 0),
    ("fsync a/episodes", 1, "episodes.jsonl", 0),
    ("write a/checkpoints", 1, "checkpoints.jsonl", 0),
    ("write a/checkpoints", 2, "checkpoints.jsonl", 2),
    ("fsync a/checkpoints", 1, "checkpoints.jsonl", 0),
    ("mkdir a/weights", 2, "a/weights", 0),
    ("create a/weights/.*lora", 1, "lora.safetensors", 0),
    ("write a/weights/.*lora", 2, "lora.safetensors", 2),
    ("fsync a/weights/.*lora", 1, "lora.safetensors", 0),
    ("write a/weights/.*adam", 2, "adam.safetensors", 2),
    ("fsync a/weights/.*adam", 1, "adam.safetensors", 0),
    ("rename a/weights/", 2, "weights/000004", 2),
    ("fsync a/weights$", 1, "weights", 0),
    ("write a/sampler_weights/", 1, "lora.safetensors", 0),
    ("write a/sampler_weights/", 4, "lora.safetensors", 2),
    ("fsync a/sampler_weights/.*safetensors", 2, "lora.safetensors", 0),
    ("rename a/sampler_weights/", 3, "sampler_weights/000002", 0),
]


@pytest.mark.parametrize(("at", "nth", "file", "step"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_no_room_ends_the_run_in_one_line_and_with_room_it_goes_on(
    cookbook, roomy, tiny_model, tmp_path, at, nth, file, step
):
    event = {"at": at, "nth": nth, "then": "full", "when": "half"}
    result = cookbook(tmp_path, *WORDS, f"model={tiny_model}", **event)
    (line,) = result.err.splitlines()
    assert result.code == 1 and line.startswith(LINE.format(file=tmp_path / "a"))
    assert line.endswith(file + RESUME.format(step=step))
    result = cookbook(tmp_path, "resume", "a")
    assert (result.code, result.err) == (0, "")
    assert rows(tmp_path) == roomy


@pytest.mark.parametrize("at", ["write a/record", "truncate a/metrics", "write a/metrics", "write a/weights"])
def test_no_room_during_a_resume_costs_nothing_either(cookbook, roomy, tiny_model, tmp_path, at):
    killed = {"at": "write a/metrics", "nth": 4, "then": "SIGKILL"}
    assert cookbook(tmp_path, *WORDS, f"model={tiny_model}", **killed).code == -9
    result = cookbook(tmp_path, "resume", "a", at=at, nth=1, then="full")
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert result.err.endswith(RESUME.format(step=2) + "\n"), result.err
    assert cookbook(tmp_path, "resume", "a").code == 0 and rows(tmp_path) == roomy


@pytest.mark.parametrize("at", ["write a/metrics", "rename a/weights", "fsync a/checkpoints"])
def test_a_failure_that_passes_is_written_into_the_record(cookbook, roomy, tiny_model, tmp_path, at):
    event = {"at": at, "nth": 1, "then": "fails"}
    assert cookbook(tmp_path, *WORDS, f"model={tiny_model}", **event).code == 1
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert record["status"] == "failed" and "No space left on device" in record["error"]
    assert cookbook(tmp_path, "resume", "a").code == 0 and rows(tmp_path) == roomy


@pytest.mark.parametrize(
    ("at", "file"),
    [
        ("mkdir a$", "a"),
        ("create a/lock", "a/lock"),
        ("create a/record", "a/record.json.part"),
        ("write a/record", "a/record.json.part"),
        ("fsync a/record", "a/record.json.part"),
        ("rename a/record", "a/record.json"),
    ],
)
def test_a_run_that_had_no_room_to_begin_gives_no_hint_to_resume_it(cookbook, tiny_model, tmp_path, at, file):
    result = cookbook(tmp_path, *WORDS, f"model={tiny_model}", at=at, nth=1, then="full")
    assert (result.code, result.err) == (1, LINE.format(file=tmp_path / file) + "\n")


def test_a_checkpoint_on_a_disk_without_room_leaves_no_half_of_it(cookbook, tiny_model, tmp_path):
    event = {"at": "write a/weights/.*adam", "nth": 1, "then": "full", "when": "half"}
    assert cookbook(tmp_path, *WORDS, f"model={tiny_model}", **event).code == 1
    assert list((tmp_path / "a" / "weights").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB of memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_fills_up_and_is_enlarged(cookbook, tiny_model, tmp_path, small_disk):
    wide = "lora_rank=64"
    words = [word for word in WORDS if not word.startswith("lora_rank=")] + [f"model={tiny_model}", wide]
    assert cookbook(tmp_path / "roomy", *words).code == 0
    result = cookbook(small_disk, *words)
    (line,) = result.err.splitlines()
    assert result.code == 1 and line.startswith(LINE.format(file=small_disk / "a")), line
    assert "`cookbook resume a` goes on after step" in line
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    result = cookbook(small_disk, "resume", "a")
    assert (result.code, result.err) == (0, "")
    assert rows(small_disk) == rows(tmp_path / "roomy")
