"""`cookbook check` as a person meets it: what it refuses, and what it says."""

from __future__ import annotations

import pytest

from cookbook import cli, registry
from cookbook.errors import UnknownIdError

NAUGHTY = """
import chz

from cookbook import EnvConfig, Grade, Question


class Any:
    def grade(self, prompt, reply, reference):
        return Grade(bool(reply["content"]))


@chz.chz
class Naughty(EnvConfig):
    letters: int = 3

    def tasks(self, split):
        things = ("a", "b", "c") if split == "train" else ("d",)
        return [Question(f"Name {thing}.", thing, Any()) for thing in things]
"""


@pytest.fixture
def cook(tmp_path, monkeypatch, capsys):
    """`cook(word, ...)`: exit code, standard output and standard error, in a folder with my_envs.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_envs.py").write_text(NAUGHTY)

    def cook(*argv):
        code = cli.main(["check", *argv])
        return code, *capsys.readouterr()

    return cook


REFUSED = {
    ("words",): "there is no plugin words: `cookbook plugins` lists what is installed, and `pip install -e",
    ("maths",): "there is no plugin maths: did you mean math?",
    ("math/nosuch",): "there is no row math/nosuch",
    ("my_env:Naughty",): "env=my_env:Naughty: No module named 'my_env'; there is no my_env.py in ",
    ("my_envs:Nice",): "module 'my_envs' has no attribute 'Nice'",
    (
        "my_envs:Naughty",
        "env.letter=3",
    ): "there is no option 'env.letter'; did you mean 'env.letters'? (--help",
    ("math/arithmetic", "env.digits=x"): "env.digits: Could not cast 'x' to int",
    ("math", "env.digits=3"): "env.digits=... is of one environment, and math is a namespace",
    ("math/integer", "env.digits=3"): "there is no env math/integer",
    ("math/arithmetic", "digits=3"): "the options of an environment look like env.digits=3",
    ("math/arithmetic", "--ignore", "L9.x"): "there is no rule 'L9.x'; `cookbook check --rules` lists them",
    ("math/arithmetic", "--ignored", "L3.slow"): "there is no flag '--ignored'; `cookbook check --help`",
}


@pytest.mark.parametrize(("argv", "says"), REFUSED.items(), ids=lambda value: " ".join(value)[:30])
def test_what_the_user_can_mend_is_one_line_and_no_finding(cook, argv, says):
    code, out, err = cook(*argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def test_a_package_that_lies_here_and_is_not_installed_is_named_with_the_command(cook, tmp_path):
    (tmp_path / "cookbook-plugin-words").mkdir()
    (tmp_path / "cookbook-plugin-words" / "pyproject.toml").write_text("")
    mend = "cookbook-plugin-words lies here and isn't installed; pip install -e cookbook-plugin-words"
    assert mend in cook("words")[2]
    assert cli.main(["run", "core/rl", "env=words/last-word", "model=m"]) == 2
    with pytest.raises(UnknownIdError, match=mend):
        registry.find("recipe", "words/last-word")


def test_a_finding_is_shown_with_its_rule_its_example_and_what_to_do(cook):
    code, out, _ = cook("my_envs:Naughty")
    assert code == 1
    assert "my_envs:Naughty: " in out and "  FAILED L3.garbage: " in out
    assert "    rule: " in out and "    mend: " in out
    assert out.endswith("\n1 of 1 failed\n")


def test_a_bare_name_is_cores_own(cook):
    code, out, _ = cook("rl")
    assert (code, out.splitlines()[0]) == (0, "recipe core/rl: ok")


def test_the_help_says_how_each_target_is_named(cook):
    code, out, _ = cook("--help")
    assert code == 0 and all(word in out for word in ("check words`", "check words/brief`", "my_envs:Brief`"))
