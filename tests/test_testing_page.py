"""The page on testing has all rules: `python tests/test_testing_page.py` writes them into it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cookbook import testing
from cookbook.testing import RULES

DOCS = Path(__file__).parents[1] / "docs"
TABLE = re.compile(r"(?<=<!-- rules -->\n).*?(?=<!-- /rules -->)", re.DOTALL)


def page() -> Path:
    """Whatever number it has."""
    return next(path for path in DOCS.glob("*testing*.md") if "<!-- rules -->" in path.read_text())


def table() -> str:
    lines = ["| rule | what holds | what to do where it doesn't |", "|---|---|---|"]
    for name, rule in RULES.items():
        warns = " (warning)" if rule.warns else ""
        says, mend = (text.replace("|", "\\|") for text in (rule.says, rule.mend))
        lines.append(f"| `{name}`{warns} | {says} | {mend} |")
    return "\n".join([*lines, ""])


def test_the_page_has_every_rule():
    assert TABLE.findall(page().read_text()) == [table()]


def test_the_page_names_every_check():
    text = page().read_text()
    assert [name for name in testing.__all__ if name.startswith("check") and f"`{name}(" not in text] == []


def test_the_page_explains_every_fact():
    sources = Path(testing.__file__).parent.glob("*.py")
    found = {m for s in sources for m in re.findall(r'report\.facts\[f?"([^"]+)"\]', s.read_text())}
    names = {
        name.replace("{unit}", u).replace("{split}", "train") for name in found for u in ("bytes", "tokens")
    }
    assert "cost/prompt_tokens" in names
    assert [name for name in sorted(names) if f"`{name}`" not in page().read_text()] == []


if __name__ == "__main__":
    sys.stdout.write(f"{page()}\n")
    page().write_text(TABLE.sub(lambda _: table(), page().read_text()))
