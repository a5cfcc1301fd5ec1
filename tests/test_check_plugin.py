"""L0 of `cookbook check`: real dists, one fault each, and healthy ones."""

import importlib
import itertools
import os
import re
import sys
import textwrap

import pytest

from cookbook.errors import UnknownIdError
from cookbook.registry import Registry
from cookbook.testing import RULES, check_plugin

pytestmark = pytest.mark.authors

HOOKS = """
    from cookbook import hookimpl

    @hookimpl
    def register_envs(register):
        register("caps", "{module}.parts:{env}", "Capital letters", options={options})

    @hookimpl
    def register_{kind}s(register):
        register("other", "{module}.parts:{target}", "Something else")
"""
PARTS = """
    import chz
    from cookbook import EnvConfig, GraderConfig, Grade

    @chz.chz
    class Caps(EnvConfig):
        letters: int = 3

        def tasks(self, split):
            return []

    class Plain(EnvConfig):
        def tasks(self, split):
            return []

    @chz.chz
    class Judge(GraderConfig):
        def grade(self, prompt, reply, reference):
            return Grade(True)

    def command(argv):
        return 0

    def recipe():
        from cookbook import preset
        from cookbook.sl import SLConfig
        return preset(SLConfig, name="x")

    def no_recipe():
        return {}

    def quits():
        raise SystemExit("no")

    def renderer(tokenizer, *, thinking=True):
        return None

    def two(a, b):
        return 0

    text = "not called"
"""
HEAD = "License-Expression: MIT\nRequires-Dist: cookbook-core>=0.1,<0.2\n"
_number = itertools.count()


@pytest.fixture
def check(tmp_path, monkeypatch):
    """`check(...)`: the rules that a plugin breaks, and the report. hooks: code in front of the hooks."""
    monkeypatch.delenv("COOKBOOK_DISABLE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def check(
        code="", *, head=HEAD, parts=PARTS, hooks=HOOKS, dists=("dist-words",), patience_s=30, **values
    ):
        module = f"made_up_checked_{next(_number)}"
        given = {"module": module, "env": "Caps", "options": "{}", "kind": "grader", "target": "Judge"}
        hooks = hooks.format(**(given | values))
        (tmp_path / module).mkdir()
        code = textwrap.dedent(code) + "\n" + textwrap.dedent(hooks)
        (tmp_path / module / "__init__.py").write_text(code)
        (tmp_path / module / "parts.py").write_text(textwrap.dedent(parts))
        for dist in dists:
            info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n{head}\nText\n"
            )
            (info / "entry_points.txt").write_text(f"[cookbook]\nwords = {module}\n")
        importlib.invalidate_caches()
        hangs = "sleep" in code  # such a one must never be imported here
        report = check_plugin("words", None if hangs else Registry.scan([tmp_path]), patience_s=patience_s)
        return {finding.rule: finding.example for finding in report.findings}, report

    return check


HEALTHY = {
    "a grader": {},
    "a command": {"kind": "command", "target": "command"},
    "a recipe": {"kind": "recipe", "target": "recipe"},
    "a renderer": {"kind": "renderer", "target": "renderer"},
    "options": {"options": '{"letters": 5}'},
    "chz at import": {"code": "import chz, json, re"},
    "an older licence": {"head": HEAD.replace("License-Expression", "License")},
    "a classifier": {
        "head": HEAD.replace("License-Expression: MIT", "Classifier: License :: OSI Approved :: MIT License")
    },
    "a licence file": {"head": HEAD.replace("License-Expression: MIT", "License-File: LICENSE")},
    "a compatible release": {"head": HEAD.replace(">=0.1,<0.2", "~=0.1.0")},
}


@pytest.fixture(autouse=True)
def no_stand_ins():
    """What `HEAVY` puts in the place of libraries is in this process too, where the plugin registers."""
    yield
    for name in ("ray", "vllm"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("values", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_plugin_breaks_nothing(check, values):
    found, report = check(**values)
    assert found == {} and not report.failed and not report.unchecked
    assert 0 < report.facts["import/cpu_s"] < 1


HEAVY = """
    import sys, types
    for name in ("ray", "vllm"):
        sys.modules[name] = types.ModuleType(name)
"""
SLOW = """
    import time
    until = time.process_time() + 1.05
    while time.process_time() < until:
        pass
"""
CONNECTS = """
    import socket
    with socket.socket() as s:
        s.settimeout(1)
        s.connect_ex(("127.0.0.1", 9))
"""
FAULTS = {  # a name: what is wrong, the rule, and what its example says
    "doesn't import": ({"code": "1 / 0"}, "L0.loads", "ZeroDivisionError"),
    "a row that can't be": ({"hooks": HOOKS.replace("Capital letters", " ")}, "L0.loads", "must be one line"),
    "hangs": ({"code": "import time; time.sleep(1000)", "patience_s": 1}, "L0.loads", "not over after 1 s"),
    "dies": ({"code": "import os, sys\n'made_up' in sys.argv[0] or os.getppid() == PID and os._exit(3)"},
             "L0.loads", "died, or hung"),
    "a hook without its mark": ({"hooks": HOOKS.replace("@hookimpl", "")}, "L0.hooks", "write @cook"),
    "a misspelt hook": ({"kind": "garder"}, "L0.hooks", "did you mean register_graders"),
    "nothing registered": ({"hooks": "", "code": "x = 1"}, "L0.hooks", "registers nothing"),
    "two dists": ({"dists": ("ours", "theirs")}, "L0.clash", "ours 1.0 and theirs 1.0 claim"),
    "no bound": ({"head": "License-Expression: MIT\n"}, "L0.core-bound", "names no bound"),
    "no upper bound": ({"head": HEAD.replace(",<0.2", "")}, "L0.core-bound", "no upper end"),
    "a bound of another core": ({"head": HEAD.replace("<0.2", "<0.1.0")}, "L0.core-bound", "is installed"),
    "no licence": ({"head": HEAD.partition("\n")[2]}, "L0.licence", "of dist-words 1.0 names none"),
    "an unknown licence": ({"head": HEAD.replace("License-Expression: MIT", "License: UNKNOWN")},
                           "L0.licence", "names none"),
    "a slow import": ({"code": SLOW}, "L0.import-time", "took 1."),
    "prints": ({"code": "print('Hello')"}, "L0.prints", "'Hello'"),
    "prints past Python": ({"code": "import os; os.write(1, b'Hello')"}, "L0.prints", "'Hello'"),
    "warns": ({"code": "import sys; sys.stderr.write('Mind')"}, "L0.prints", "'Mind'"),
    "a heavy import": ({"code": HEAVY}, "L0.heavy-import", "imports ray, vllm"),
    "connects": ({"code": CONNECTS}, "L0.network", "connect ('127.0.0.1', 9)"),
    "looks a name up": ({"code": "import socket\nsocket.getaddrinfo('127.0.0.1', 80)"}, "L0.network",
                        "getaddrinfo 127.0.0.1"),
    "a target there isn't": ({"env": "Nothing"}, "L0.target", "env words/caps, .*no attribute 'Nothing'"),
    "a target that raises": ({"parts": "1 / 0"}, "L0.target", "ZeroDivisionError"),
    "a target that exits": ({"parts": PARTS + "\n    import os; os._exit(1)"}, "L0.target", "ended the"),
    "a target that hangs": ({"parts": PARTS + "\n    import time; time.sleep(99)", "patience_s": 4},
                            "L0.target", "not over after 4 s"),
    "an env that is none": ({"env": "command"}, "L0.target", "command is no @chz.chz class derived"),
    "an env without chz": ({"env": "Plain"}, "L0.target", "Plain has no @chz.chz above it"),
    "a grader that is an env": ({"target": "Caps"}, "L0.target", "derived from GraderConfig"),
    "a recipe that is none": ({"kind": "recipe", "target": "no_recipe"}, "L0.target", "gave dict, not a chz"),
    "a recipe with arguments": ({"kind": "recipe", "target": "two"}, "L0.target", "called as two()"),
    "a recipe that quits": ({"kind": "recipe", "target": "quits"}, "L0.target", "SystemExit: no"),
    "a renderer of two": ({"kind": "renderer", "target": "two"}, "L0.target", "called as two(tokenizer)"),
    "a command of two": ({"kind": "command", "target": "two"}, "L0.target", "called as two(argv)"),
    "a command that is a text": ({"kind": "command", "target": "text"}, "L0.target", "can't be called"),
}  # fmt: skip


@pytest.mark.parametrize("values, rule, example", FAULTS.values(), ids=FAULTS)
def test_one_fault_breaks_one_rule(check, values, rule, example):
    values = {**values, "code": values.get("code", "").replace("PID", str(os.getpid()))}
    found, report = check(**values)
    assert list(found) == [rule] and report.failed
    assert example in found[rule] or re.search(example, found[rule])
    assert "\n" not in found[rule]


def test_every_rule_of_l0_is_broken_by_one_of_these():
    assert {rule for _, rule, _ in FAULTS.values()} == {rule for rule in RULES if rule.startswith("L0.")}


def test_what_does_not_load_says_what_could_not_be_looked_at(check):
    _, report = check("1 / 0")
    assert set(report.unchecked) > {"L0.prints", "L0.target"}


def test_a_plugin_that_is_left_out_is_told_so(check, monkeypatch):
    monkeypatch.setenv("COOKBOOK_DISABLE_PLUGINS", "words")
    assert "COOKBOOK_DISABLE_PLUGINS names words" in check()[0]["L0.loads"]


def test_a_namespace_that_is_not_there_is_an_unknown_id():
    with pytest.raises(UnknownIdError, match="there is no namespace made-up: `cookbook list` lists"):
        check_plugin("made-up", Registry([]))


@pytest.mark.parametrize("namespace", ["core", "math", "chat", "reasoning", "local"])
def test_what_is_shipped_breaks_nothing(namespace, monkeypatch):
    monkeypatch.delenv("COOKBOOK_DISABLE_PLUGINS", raising=False)
    report = check_plugin(namespace)
    assert [str(finding) for finding in report.findings] == [] and not report.unchecked
