"""Saved weights: whole or not at all, found by their path, and fit for going on."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cookbook.errors import BackendError
from cookbook_plugin_local import states
from cookbook_plugin_local.llama import Lora
from cookbook_plugin_local.states import State

FILES = ["adam.safetensors", "lora.safetensors"]


def state(model, seed=0, base_model="a model", rank=4):
    """A LoRA with Adam's moments, if made-up ones."""
    lora = Lora.fresh(model.shape, rank, 6.0, seed)
    return State(base_model, lora, {f"{name}/exp_avg": p.detach() + 1 for name, p in lora.parameters.items()})


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def place(tmp_path):
    return states.new_folder(tmp_path / "run", "weights", "a")


@pytest.fixture
def read(tmp_path):
    return lambda **kw: states.read(tmp_path, "tinker://run/weights/a", **kw)


@pytest.fixture
def full_disk(monkeypatch):
    """`with full_disk(bytes): ...`: room for so many bytes more."""

    def fill(patch, room):
        write = os.write

        def limited(fd, data):
            nonlocal room
            if len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            room -= len(data)
            return write(fd, data)

        patch.setattr(os, "write", limited)

    return fill


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_again_to_the_bit(model, place, read):
    saved = state(model)
    states.save(place, saved, overwrite=False)
    assert names(place) == FILES
    found = read(optimizer=True).fitting(model.shape)
    assert (found.base_model, found.lora.rank, found.lora.alpha) == ("a model", 4, 6.0)
    assert same(found.lora.parameters, saved.lora.parameters)
    assert same(found.moments, saved.moments)
    assert read().moments is None


def test_the_parameters_come_in_the_order_of_a_fresh_lora(model, place, read):
    """The order in which a gradient's norm is summed."""
    saved = state(model)
    states.save(place, saved, overwrite=False)
    assert list(read().fitting(model.shape).lora.parameters) == list(saved.lora.parameters)


def test_what_is_saved_for_sampling_has_no_optimizer(model, place, read):
    states.save(place, State("a model", state(model).lora), overwrite=False)
    assert names(place) == ["lora.safetensors"]
    assert same(read().lora.parameters, state(model).lora.parameters)
    with pytest.raises(BackendError, match="tinker://run/weights/a holds no optimizer state"):
        read(optimizer=True)


def test_what_is_read_does_not_change_with_the_file(model, place, read):
    states.save(place, state(model), overwrite=False)
    found = read(optimizer=True)
    for name in FILES:
        with (place / name).open("r+b") as file:
            file.write(bytes((place / name).stat().st_size))
    assert same(found.lora.parameters, state(model).lora.parameters)
    assert same(found.moments, state(model).moments)


def test_a_state_is_not_overwritten_unless_asked(model, place, read):
    states.save(place, state(model, 1), overwrite=False)
    with pytest.raises(BackendError, match="is already there; save under another name"):
        states.save(place, state(model, 2), overwrite=False)
    assert same(read().lora.parameters, state(model, 1).lora.parameters)
    states.save(place, state(model, 2), overwrite=True)
    assert same(read(optimizer=True).moments, state(model, 2).moments)
    assert names(place.parent) == ["a"]


def test_every_byte_is_synced_before_the_state_has_its_name(model, place, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(fd):
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        synced.append((path.relative_to(place.parent.parent).as_posix(), place.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    states.save(place, state(model), overwrite=False)
    assert synced == [
        ("weights/.a.part/lora.safetensors", False),
        ("weights/.a.part/adam.safetensors", False),
        ("weights/.a.part", False),
        ("weights", True),
        (".", True),
    ]


@pytest.mark.parametrize("room", [0, 30_000])
@pytest.mark.parametrize("before", [None, 1])
def test_a_full_disk_is_an_os_error_and_leaves_what_was_there(model, place, read, full_disk, room, before):
    if before is not None:
        states.save(place, state(model, before), overwrite=False)
    assert room < sum(p.numel() * 4 for p in state(model).lora.parameters.values())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as caught:
        full_disk(patch, room)
        states.save(place, state(model, 2), overwrite=True)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith(".a.part/lora.safetensors")
    assert names(place.parent) == ([] if before is None else ["a"])
    if before is not None:
        assert same(read().lora.parameters, state(model, before).lora.parameters)


def test_a_rename_that_fails_brings_the_old_state_back(model, place, read, monkeypatch):
    states.save(place, state(model, 1), overwrite=False)

    def refused(part, final):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(final))

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(states.files, "rename", refused)
        states.save(place, state(model, 2), overwrite=True)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(place))
    assert names(place.parent) == ["a"]
    assert same(read().lora.parameters, state(model, 1).lora.parameters)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_save_can_be_repeated(model, place, read, monkeypatch, overwrite):
    def killed(part, final):
        raise KeyboardInterrupt

    if overwrite:
        states.save(place, state(model, 1), overwrite=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(states.files, "rename", killed)
        states.save(place, state(model, 2), overwrite=overwrite)
    assert ".a.part" in names(place.parent)
    (place.parent / ".a.part" / "of another time").touch()
    states.save(place, state(model, 3), overwrite=overwrite)
    assert names(place) == FILES
    assert same(read().lora.parameters, state(model, 3).lora.parameters)
    states.save(place, state(model, 4), overwrite=True)
    assert names(place.parent) == ["a"]


def test_what_is_deleted_is_gone_whole(model, place, read, tmp_path):
    states.save(place, state(model), overwrite=False)
    (place.parent / ".a.part").mkdir()  # of a save that was killed
    states.delete(tmp_path, "tinker://run/weights/a")
    assert names(place.parent) == []
    for again in (read, lambda: states.delete(tmp_path, "tinker://run/weights/a")):
        with pytest.raises(BackendError, match="no saved weights 'tinker://run/weights/a' under"):
            again()


@pytest.mark.parametrize(
    "path",
    [
        "tinker://run/weights/nowhere",
        "tinker://other/weights/a",
        "tinker://run/sampler_weights/a",
        "tinker://run/external_weights/a",
        "tinker://run/weights/a/deeper",
        "tinker://run/weights",
        "tinker://../run/weights/a",
        "tinker://../weights/a",
        "tinker://./weights/a",
        "tinker://run/weights/..",
        "tinker://run/weights/../weights/a",
        "tinker://run/weights/.a.part",
        "tinker://run/weights/",
        "run/weights/a",
        "",
    ],
)
@pytest.mark.parametrize("act", [states.read, states.delete])
def test_a_path_that_leads_to_no_weights_is_one_line(model, place, tmp_path, path, act):
    runs = tmp_path / "run"  # one below, so that `..` would find something
    for inside in (place, runs / "run" / "weights" / "a", place.parent / ".a.part"):
        states.save(inside, state(model), overwrite=False)
    (place.parent / ".a.part").mkdir(exist_ok=True)
    with pytest.raises(BackendError) as caught:
        act(runs, path)
    assert f"no saved weights {path!r} under {runs}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(place) == names(runs / "run" / "weights" / "a") == FILES


@pytest.mark.parametrize("name", ["", "a/b", "../a", "..", ".", "/a", "a\\b", ".a"])
def test_weights_need_a_plain_name(tmp_path, name):
    with pytest.raises(BackendError) as caught:
        states.new_folder(tmp_path, "weights", name)
    assert "isn't a name" in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_is_the_folders(tmp_path):
    place = states.new_folder(tmp_path / "math-3f", "sampler_weights", "step-000010")
    assert states.path_of(place) == "tinker://math-3f/sampler_weights/step-000010"


def test_files_that_are_not_ours_are_one_line(model, place, read):
    states.save(place, state(model), overwrite=False)
    weights = load_file(place / "lora.safetensors")
    save_file(weights, place / "lora.safetensors", {"rank": "4"})
    with pytest.raises(BackendError, match=r"not weights that were saved here \(KeyError: 'alpha'\)"):
        read()
    (place / "lora.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BackendError, match="not weights that were saved here") as caught:
        read()
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(model, place, read):
    other = state(model, base_model="/models/other")
    states.save(place, other, overwrite=False)
    parameters = {k: p for k, p in other.lora.parameters.items() if not k.startswith("1.")}
    for broken in (
        State("/models/other", Lora(4, 6.0, parameters)),
        State("/models/other", Lora(2, 6.0, other.lora.parameters)),
    ):
        with pytest.raises(BackendError, match="on /models/other, which doesn't fit the model given"):
            broken.fitting(model.shape)
