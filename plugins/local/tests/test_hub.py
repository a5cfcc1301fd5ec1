"""Models by their id on the Hugging Face hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from cookbook.errors import BackendError
from cookbook_plugin_local.models import EMBEDDED, find_model, missing_files


def test_a_hub_id_is_downloaded_without_the_copies_in_its_folders(folder, monkeypatch):
    asked = []

    def download(model, **patterns):
        asked.append((model, patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("org/name") == folder
    patterns = {"allow_patterns": ["*.json", "*.jinja", "*.safetensors"], "ignore_patterns": ["*/*"]}
    assert asked == [("org/name", patterns)]


@pytest.mark.parametrize("model", ["org/name", "org/name/file.gguf"])
def test_what_the_hubs_own_cache_has_is_found_offline(tmp_path, folder, write_gguf, model):
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    write_gguf(snapshot / "file.gguf", folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    code = f"from cookbook_plugin_local.models import find_model; print(find_model({model!r}))"
    places = {"HF_HUB_CACHE": str(tmp_path / "hub"), "COOKBOOK_HOME": str(tmp_path / "home")}
    env = os.environ | places | {"HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    got = Path(found.stdout.strip())
    assert not missing_files(got)
    assert got == snapshot if model == "org/name" else got.parent == tmp_path / "home" / "gguf"


def test_a_hub_id_without_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda model, **patterns: str(tmp_path))
    with pytest.raises(BackendError, match=r"'org/name': .* holds no config\.json"):
        find_model("org/name")


def test_a_hub_failure_of_many_lines_becomes_one(monkeypatch):
    def download(model, **patterns):
        raise OSError("404 Client Error.\n\nRepository Not Found for url: u.\nPlease make sure ...")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(BackendError) as error:
        find_model("org/nmae")
    assert "\n" not in str(error.value)
    assert "'org/nmae'" in str(error.value)
    assert "OSError: 404 Client Error. Repository Not Found for url: u." in str(error.value)
    assert EMBEDDED in str(error.value)
