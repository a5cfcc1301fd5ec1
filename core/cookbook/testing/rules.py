"""What a plugin is held to: each rule, how it is mended, and what was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """says: what holds for what keeps the rule. mend: what to do about one that doesn't.
    warns: it is told, and fails nothing."""

    says: str
    mend: str
    warns: bool = False


RULES: dict[str, Rule] = {
    # L0, what can be told without running it
    "L0.loads": Rule("the plugin loads", "mend what the example says; `cookbook plugins` shows it too"),
    "L0.hooks": Rule(
        "every hook carries @hookimpl and registers something",
        "write @cookbook.hookimpl above each register_...",
    ),
    "L0.clash": Rule("one dist claims a namespace", "choose another namespace, or uninstall the other dist"),
    "L0.core-bound": Rule(
        "the dist bounds cookbook-core from both sides", 'dependencies = ["cookbook-core>=0.1,<0.2"]'
    ),
    "L0.licence": Rule("the dist says its licence", 'license = "Apache-2.0" in [project]'),
    "L0.import-time": Rule(
        "the package imports in a second", "move imports into the modules that the rows name"
    ),
    "L0.prints": Rule("importing the package prints nothing", "take the print out"),
    "L0.heavy-import": Rule(
        "registering imports nothing heavy", "move that import into the module that a row names"
    ),
    "L0.network": Rule("importing the package opens no connection", "load data in tasks(), not at import"),
    "L0.target": Rule(
        "what a row names can be imported and is of its kind",
        'register(name, "package.module:Attribute", ...) must name what there is',
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that something breaks.

    rule: of `RULES`, "L3.constant-wins". where: the id or the class. example: the smallest one that
    breaks the rule.
    """

    rule: str
    where: str
    example: str

    @property
    def warns(self) -> bool:
        """Whether it fails nothing."""
        return RULES[self.rule].warns

    def __str__(self) -> str:
        rule = RULES[self.rule]
        kind = "warning" if rule.warns else "FAILED"
        return f"{kind} {self.rule} {self.where}: {self.example}\n  rule: {rule.says}\n  mend: {rule.mend}"


@dataclass(slots=True)
class Report:
    """What was found of one thing that was checked.

    facts: what was measured, by name. unchecked: rules that couldn't be looked at, and why.
    """

    where: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)

    def find(self, rule: str, example: str) -> None:
        """Notes that a rule is broken; the first example of each rule is kept."""
        if all(finding.rule != rule for finding in self.findings):
            self.findings.append(Finding(rule, self.where, " ".join(example.split())))

    @property
    def failed(self) -> bool:
        return any(not finding.warns for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        found = [asdict(f) | {"says": RULES[f.rule].says, "mend": RULES[f.rule].mend} for f in self.findings]
        for each, finding in zip(found, self.findings, strict=True):
            each["warns"] = finding.warns
        return {"where": self.where, "failed": self.failed, "findings": found, "facts": self.facts,
                "unchecked": self.unchecked}  # fmt: skip
