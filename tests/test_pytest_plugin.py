"""`pytest --cookbook-check`, in pytests of their own, with an author's plugin."""

import os
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from cookbook.testing import RULES, pytest_plugin

pytestmark = pytest.mark.authors

HOOKS = """
    from cookbook import hookimpl

    @hookimpl
    def register_graders(register):
        register("exact", "made_up_words.parts:Exact", "The same text")
        register("slow", "made_up_words.parts:Slow", "The same text, later")

    @hookimpl
    def register_recipes(register):
        register("first", "made_up_words.parts:first", "A first recipe")

    @hookimpl
    def register_commands(register):
        register("hello", "made_up_words.parts:hello", "Says hello")
"""
PARTS = """
    import time
    import chz
    from cookbook import Grade, GraderConfig, preset

    @chz.chz
    class Exact(GraderConfig):
        def grade(self, prompt, reply, reference):
            return Grade(reply["content"] == reference)

    @chz.chz
    class Slow(Exact):
        def grade(self, prompt, reply, reference):
            time.sleep(1.1 if reply["content"].startswith("asdf") else 0)
            return super().grade(prompt, reply, reference)

    def hello(argv):
        return 0

    def first():
        from cookbook.sl import SLConfig
        return preset(SLConfig, name="words/first")
"""
METADATA = """\
Metadata-Version: 2.4
Name: dist-words
Version: 1.0
License-Expression: MIT
Requires-Dist: cookbook-core>=0.1,<0.2
"""


@pytest.fixture
def author(tmp_path):
    """`author(flag, ...)`: what a pytest in an author's folder says; `parts` is the plugin's code."""
    (tmp_path / "made_up_words").mkdir()
    info = tmp_path / "dist_words-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text("[cookbook]\nwords = made_up_words\n")
    (tmp_path / "made_up_words" / "__init__.py").write_text(textwrap.dedent(HOOKS))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")

    def author(*flags, parts=PARTS, test="", code=0):
        (tmp_path / "made_up_words" / "parts.py").write_text(textwrap.dedent(parts))
        if test:
            (tmp_path / "test_own.py").write_text(textwrap.dedent(test))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        plugin = ["-p", "cookbook.testing.pytest_plugin"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugin, "-v", *flags],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={name: value for name, value in environment.items() if not name.startswith("COV_")},
        )
        assert done.returncode == code, done.stdout + done.stderr
        outcomes = dict(re.findall(r"^(\S+::\S+) (PASSED|FAILED|SKIPPED|ERROR)", done.stdout, re.MULTILINE))
        return SimpleNamespace(out=done.stdout, err=done.stderr, outcomes=outcomes)

    return author


def test_a_plugin_is_checked_beside_its_authors_tests(author):
    done = author("--cookbook-check=words")
    assert set(done.outcomes.values()) == {"PASSED"}
    checks = ["words::L0", "grader:words/exact::L1", "grader:words/exact::L3", "grader:words/slow::L1"]
    checks += ["grader:words/slow::L3", "recipe:words/first::L1"]
    assert list(done.outcomes) == ["test_own.py::test_own", *(f"cookbook-check::{name}" for name in checks)]
    summary = done.out.partition("= cookbook-check =")[2]
    assert "grader words/slow: warning L3.grader-slow: letters, reference '42': 1." in summary
    done = author("--cookbook-check=words", "--cookbook-ignore=L3.grader-slow")
    assert "= cookbook-check =" not in done.out


def test_a_broken_rule_fails_its_level_alone_and_says_how_to_mend_it(author):
    parts = PARTS.replace('["content"] == reference', '["content"][0] == reference')
    flags = ("--cookbook-check", "words/exact", "--cookbook-check", "words/first")
    done = author(*flags, parts=parts, code=1)
    assert done.outcomes == {
        "test_own.py::test_own": "PASSED",
        "cookbook-check::grader:words/exact::L1": "PASSED",
        "cookbook-check::grader:words/exact::L3": "FAILED",
        "cookbook-check::recipe:words/first::L1": "PASSED",
    }
    assert "FAILED L3.grader-raises: nothing, reference '42': IndexError" in done.out
    assert f"mend: {RULES['L3.grader-raises'].mend}" in done.out
    assert "Traceback" not in done.out and "pytest_plugin.py" not in done.out
    author(*flags, "--cookbook-ignore=L3.grader-raises, L3.grader-slow", parts=parts)


def test_checks_are_chosen_like_tests(author):
    done = author("--cookbook-check=words", "-k", "exact and L1")
    assert list(done.outcomes) == ["cookbook-check::grader:words/exact::L1"]
    done = author("--cookbook-check=words", "--collect-only")
    assert "<Level words::L0>" in done.out and "PASSED" not in done.out


def test_what_is_not_there_is_a_line(author):
    done = author("--cookbook-check=words/exat", code=4)
    assert (
        "ERROR: --cookbook-check=words/exat: there is no row words/exat: did you mean words/exact" in done.err
    )
    assert "there is no plugin wordz: did you mean words?" in author("--cookbook-check=wordz", code=4).err
    done = author("--cookbook-check=words", "--cookbook-ignore=L9.no", code=4)
    assert "--cookbook-ignore: there is no rule 'L9.no'" in done.err


LIGHT = """
    import sys

    def test_own():
        heavy = "numpy tinker chz torch rich pluggy.none cookbook.registry cookbook.testing.rules".split()
        assert not [name for name in heavy if name in sys.modules]
        ours = {name for name in sys.modules if name.split(".")[0] == "cookbook"}
        assert ours == {"cookbook", "cookbook.testing", "cookbook.testing.pytest_plugin"}
"""


def test_without_the_flag_nothing_of_cookbook_is_imported_but_the_plugin(author):
    assert list(author(test=LIGHT.replace(" pluggy.none", "")).outcomes) == ["test_own.py::test_own"]


def test_every_rule_belongs_to_a_level_that_its_kind_has_a_test_for():
    for rule in RULES:
        level, name = rule.split(".")
        kind = name.partition("-")[0]
        kind = "plugin" if level == "L0" else kind if kind in pytest_plugin._LEVELS else "env"
        assert level in pytest_plugin._LEVELS[kind], rule
