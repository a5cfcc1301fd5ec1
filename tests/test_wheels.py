"""The dists as a user gets them: built wheels in a new environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.wheels


@pytest.fixture(scope="module")
def bin_dir(tmp_path_factory):
    """A new environment that holds what core and math need, of third parties, and no dist of ours."""
    import tomllib

    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    projects = (ROOT / "pyproject.toml", ROOT / "plugins" / "math" / "pyproject.toml")
    needs = [n for p in projects for n in tomllib.loads(p.read_text())["project"]["dependencies"]]
    needs = [need for need in needs if not need.startswith("cookbook")]
    subprocess.run([folder / "bin" / "pip", "install", "-q", *needs], check=True)
    return folder / "bin"


def call(*words, code=0):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COOKBOOK"))}
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_plugin_appears_when_installed_and_goes_when_uninstalled(bin_dir):
    dist = ROOT / "dist"
    assert {w.name.split("-")[0] for w in dist.glob("*.whl")} == {
        "cookbook_core",
        "cookbook_plugin_math",
        "cookbook_plugin_chat",
        "cookbook_plugin_reasoning",
        "cookbook_plugin_local",
    }, "`make wheels` builds them"
    call(bin_dir / "pip", "install", "-q", "--no-index", "--find-links", dist, "cookbook-plugin-math")
    rows = json.loads(call(bin_dir / "cookbook", "list", "env", "--json").stdout)
    (row,) = [row for row in rows if row["id"] == "math/arithmetic"]
    assert (row["dist"], row["version"]) == ("cookbook-plugin-math", "0.1.0")
    needs_local = call(bin_dir / "cookbook", "run", "math/arithmetic", code=2).stderr
    assert "pip install cookbook-plugin-local" in needs_local and needs_local.count("\n") == 1
    call(bin_dir / "pip", "uninstall", "-q", "-y", "cookbook-plugin-math")
    assert json.loads(call(bin_dir / "cookbook", "list", "env", "--json").stdout) == []
    gone = call(bin_dir / "cookbook", "run", "math/arithmetic", code=2).stderr
    assert "pip install cookbook-plugin-math" in gone and gone.count("\n") == 1


def test_the_wheels_hold_the_package_and_nothing_else(bin_dir):
    import zipfile

    for wheel in (ROOT / "dist").glob("*.whl"):
        tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        package = "cookbook" if "core" in wheel.name else "_".join(wheel.name.split("-")[0].split("_"))
        assert tops == {package, f"{wheel.name.split('-')[0]}-0.1.0.dist-info"}
