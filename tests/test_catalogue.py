"""docs/catalogue.md is what `cookbook list --markdown` prints."""

from __future__ import annotations

from pathlib import Path

import chz
import pytest

from cookbook import catalogue_command, cli, registry
from cookbook.registry import Row

PAGE = (Path(__file__).parents[1] / "docs" / "catalogue.md").read_text()


def row(kind, target, **options):
    return Row(kind, "words/one", target, "The <first>", options, ("gpu",), "dist-words", "1.0")


MODULE = """
import chz
from cookbook import EnvConfig, preset

@chz.chz
class Sized(EnvConfig):
    reward_range = (-1.0, 2.5)
    size: int | None = chz.field(default=None, doc="of <it>")
    must: str = chz.field(doc="given")

    def tasks(self, split):
        return []

def recipe():
    return preset(Sized, name="words/one", must="yes", local={"size": 1})

def bare():
    return preset(Sized, name="words/one")
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """`page(kind, attribute)`: the catalogue of one row, whose target is in MODULE."""
    (tmp_path / "made_up_sized.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def page(kind, attribute):
        return catalogue_command.page([row(kind, f"made_up_sized:{attribute}")])

    return page


def test_the_catalogue_is_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.delenv("COOKBOOK_DISABLE_PLUGINS", raising=False)
    assert cli.main(["list", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE, "`make docs` writes it anew"


def test_it_names_every_id_and_every_option_of_an_environment():
    for each in registry.default().rows():
        assert f"| `{each.id}` | " in PAGE
        if each.kind == "env":
            (section,) = [part for part in PAGE.split("### ") if part.startswith(f"Environment `{each.id}`")]
            for option in chz.chz_fields(each.load()):
                assert f"| `{option}` | " in section


def test_one_kind_can_be_asked_for(capsys):
    assert cli.main(["list", "grader", "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "## Graders" in shown and "## Recipes" not in shown


def test_options_show_type_default_and_doc_and_nothing_is_taken_for_markup(page):
    shown = page("env", "Sized")
    assert "| `words/one` | The &lt;first> | gpu | dist-words |" in shown
    assert "Reward: -1 to 2.5." in shown
    assert r"| `size` | `int \| None` | `None` | of &lt;it> |" in shown
    assert "| `must` | `str` |  | given |" in shown


def test_a_recipe_shows_what_it_sets_and_one_that_sets_nothing_all_its_options(page):
    assert page("recipe", "recipe").endswith("recipe: `must=yes`\n\nlocal: `size=1`")
    assert "| `must` | `str` |  | given |" in page("recipe", "bare")


def test_a_row_that_cant_be_imported_says_why(page):
    assert "can't import made_up_sized:Nothing: AttributeError" in page("env", "Nothing")
