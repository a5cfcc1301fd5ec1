"""The registry, on real dists: a package and its dist-info, written into a folder on sys.path."""

import contextlib
import functools
import importlib
import itertools
import json
import re
import subprocess
import sys
import textwrap
import types
from importlib import metadata
from pathlib import Path

import pytest

import cookbook
from cookbook import registry
from cookbook.errors import ConfigError, PluginError, UnknownIdError
from cookbook.registry import Registry

GOOD = """
    from cookbook.hookspecs import hookimpl

    @hookimpl
    def register_envs(register):
        register("sums", "json:dumps", "Adding up")
"""
LATE = """
    from cookbook.hookspecs import hookimpl

    @hookimpl
    def register_envs(register):
        register("early", "json:dumps", "One that is fine")
        {}
"""
_number = itertools.count()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(namespace, code)` writes one dist; returns the name of its module."""
    monkeypatch.delenv("COOKBOOK_DISABLE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def install(namespace, code=GOOD, *, dist=None, needs="cookbook-core>=0.1,<0.2"):
        module = f"made_up_plugin_{next(_number)}"
        dist = dist or f"dist-{namespace}"
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n{requires}\nName: in the README\n"
        )
        (info / "entry_points.txt").write_text(f"[cookbook]\n{namespace} = {module}\n")
        importlib.invalidate_caches()
        return module

    return install


def scan(folder: Path) -> dict[str, registry.Plugin]:
    return {plugin.namespace: plugin for plugin in Registry.scan([folder]).plugins}


def points(folder: Path) -> list[metadata.EntryPoint]:
    return [point for dist in metadata.distributions(path=[str(folder)]) for point in dist.entry_points]


def test_a_row_says_where_it_is_from_and_loads_its_target(install, tmp_path):
    install(
        "good",
        """
        from cookbook.hookspecs import hookimpl

        @hookimpl
        def register_graders(register):
            register("exact", "json:dumps", "Same text", options={"indent": 2}, needs=["gpu"])
        """,
    )
    row = Registry.scan([tmp_path]).find("grader", "good/exact")
    assert row.as_json() == {
        "kind": "grader",
        "id": "good/exact",
        "target": "json:dumps",
        "summary": "Same text",
        "options": {"indent": 2},
        "needs": ["gpu"],
        "dist": "dist-good",
        "version": "1.0",
    }
    assert isinstance(row.load(), functools.partial)
    assert row.load()([1]) == json.dumps([1], indent=2)
    assert {row}, "rows can be members of a set"


def test_every_kind_has_a_hook_of_its_name(install, tmp_path):
    hooks = "".join(
        f"@hookimpl\ndef register_{kind}s(register): register('x', 'json:dumps', 'An x')\n"
        for kind in registry.KINDS
    )
    install("all", f"from cookbook.hookspecs import hookimpl\n{hooks}")
    rows = Registry.scan([tmp_path])
    assert [row.kind for row in rows.find_all("all/x")] == list(registry.KINDS)
    assert [row.kind for row in rows.find_all("env:all/x")] == ["env"]
    assert [rows.rows(kind)[0].kind for kind in registry.KINDS] == list(registry.KINDS)
    with pytest.raises(ConfigError, match="no kind 'envs'; the kinds are env, grader"):
        rows.rows("envs")


def test_core_comes_first_and_the_rest_by_name(install, tmp_path):
    for namespace in ("zebra", "ape", "core"):
        install(namespace)
    assert list(scan(tmp_path)) == ["core", "ape", "zebra"]


def test_plugins_and_rows_are_json(install, tmp_path):
    module = install("good")
    plugin = json.loads(json.dumps(scan(tmp_path)["good"].as_json()))
    assert plugin.pop("import_s") > 0
    assert plugin.pop("rows")[0]["id"] == "good/sums"
    assert plugin == {
        "namespace": "good",
        "dist": "dist-good",
        "version": "1.0",
        "module": module,
        "status": "ok",
        "problems": [],
        "kinds": [],
        "bound": "<0.2,>=0.1",
    }


BROKEN = {  # what the plugin says: what its reason says
    "import not_installed_anywhere": "ModuleNotFoundError: No module named 'not_installed_anywhere'",
    "1 / 0": "importing made_up_plugin_.* failed: ZeroDivisionError: division by zero",
    "def (": "SyntaxError: ",
    "import sys; sys.exit('no licence')": "importing .* failed: SystemExit: no licence",
    "raise SystemExit": "importing .* failed: SystemExit$",
    GOOD.replace("register_envs", "register_env"): "no hook register_env; did you mean register_envs?",
    GOOD.replace("(register)", "(registrar)"): "Argument.s. {'registrar'}",
    LATE.format("raise SystemExit(3)"): "register_envs failed: SystemExit: 3",
    LATE.format("1 / 0"): "register_envs failed: ZeroDivisionError",
    LATE.format("register('early', 'json:loads', 'Again')"): "env bad/early is there already",
    LATE.format("register('No spaces', 'json:dumps', 'x')"): "name must match .* not be 'No spaces'",
    LATE.format("register('a/b', 'json:dumps', 'x')"): "name must match",
    LATE.format("register('', 'json:dumps', 'x')"): "name must match",
    LATE.format("register('x', 'json.dumps', 'x')"): "target must look like package.module:attribute",
    LATE.format("register('x', 'json:1d', 'x')"): "target must look like package.module:attribute",
    LATE.format("register('x', register, 'x')"): "target must look like package.module:attribute",
    LATE.format("register('x', 'json:dumps', ' ')"): "summary must be one line of text",
    LATE.format("register('x', 'json:dumps', 'two\\nlines')"): "summary must be one line of text",
    LATE.format(
        "register('x', 'json:dumps', 'x', needs='gpu')"
    ): "needs must be a tuple of strings, not 'gpu'",
    LATE.format("register('x', 'json:dumps', 'x', options={'a': {1}})"): "options must be .* JSON",
    LATE.format("register('x', 'json:dumps', 'x', options={'a': float('nan')})"): "options must be .* JSON",
    LATE.format("register('x', 'json:dumps', 'x', options=[1])"): "options must be .* JSON",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_takes_no_other_down(install, tmp_path, code):
    install("bad", code)
    install("good")
    found = Registry.scan([tmp_path])
    bad, good = found.plugins
    assert (bad.status, bad.rows, len(bad.problems)) == ("broken", [], 1)
    assert "\n" not in bad.problems[0]
    assert (good.status, good.problems, len(good.rows)) == ("ok", [], 1)
    with pytest.raises(
        UnknownIdError, match=r"^there is no env bad/early: dist-bad 1.0 is broken: "
    ) as error:
        found.find("env", "bad/early")
    assert bad.problems[0] in str(error.value)
    assert re.search(BROKEN[code], bad.problems[0])


def test_an_interrupt_is_not_taken_for_a_broken_plugin(install, tmp_path):
    install("bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.scan([tmp_path])


@pytest.mark.parametrize(
    ("code", "warning"),
    [
        (GOOD.replace("@hookimpl", ""), "register_envs: never called; write @cookbook.hookimpl above"),
        ("", "it registers nothing"),
        (
            GOOD.replace('register("', 'str("').replace(', "json:dumps", "Adding up"', ""),
            "it registers nothing",
        ),
    ],
)
def test_a_plugin_without_rows_is_warned_how_to_get_some(install, tmp_path, code, warning):
    install("empty", code)
    plugin = scan(tmp_path)["empty"]
    assert plugin.status == "ok"
    assert warning in plugin.problems[0]


@pytest.mark.parametrize(
    ("needs", "status", "problem"),
    [
        ("cookbook-core>=0.1,<0.2", "ok", None),
        ("Cookbook_Core (>=0.1)", "ok", None),
        ("cookbook-core[extra]>=0.1,<0.2; python_version > '3'", "ok", None),
        (None, "ok", "should depend on cookbook-core>=X,<Y"),
        ("cookbook-core", "ok", "names no bound"),
        ("cookbook-core-extras>=7", "ok", "names no bound"),
        ("cookbook-core>=7; extra == 'dev'", "ok", "names no bound"),
        (
            "cookbook-core>=0.2",
            "broken",
            "dist-some 1.0 needs cookbook-core>=0.2; 0.1.5 is installed; pip install '",
        ),
        ("cookbook-core>>1", "broken", "its METADATA can't be read: InvalidRequirement"),
    ],
)
def test_the_bound_on_core_is_checked_before_the_import(install, tmp_path, needs, status, problem):
    module = install("some", needs=needs)
    plugin = Registry(points(tmp_path), core_version="0.1.5").plugins[0]
    assert plugin.status == status
    assert (problem in plugin.problems[0]) if problem else not plugin.problems
    assert (module in sys.modules) == (status == "ok")


def test_core_itself_needs_no_bound(install, tmp_path):
    install("core", dist="cookbook-core", needs=None)
    assert scan(tmp_path)["core"].problems == []


def test_half_an_uninstalled_dist_breaks_alone(install, tmp_path):
    install("half")
    install("good")
    (tmp_path / "dist_half-1.0.dist-info" / "METADATA").unlink()
    plugins = scan(tmp_path)
    assert (plugins["half"].status, plugins["good"].status) == ("broken", "ok")
    assert "METADATA can't be read" in plugins["half"].problems[0]


@pytest.mark.parametrize("namespace", ["math", "core"])
def test_two_dists_that_claim_a_namespace_are_both_left_out(install, tmp_path, namespace):
    modules = [install(namespace, dist=dist) for dist in ("ours", "theirs")]
    install("good")
    plugins = Registry.scan([tmp_path]).plugins
    claimants = [plugin for plugin in plugins if plugin.namespace == namespace]
    assert [plugin.status for plugin in claimants] == ["broken", "broken"]
    assert all("ours 1.0 and theirs 1.0 claim" in plugin.problems[0] for plugin in claimants)
    assert not sys.modules.keys() & set(modules)
    assert [plugin.status for plugin in plugins if plugin.namespace == "good"] == ["ok"]


def test_one_dist_found_twice_claims_once(install, tmp_path):
    install("good")
    assert [plugin.status for plugin in Registry(points(tmp_path) * 2).plugins] == ["ok"]


def test_a_namespace_must_be_spelt_like_one(install, tmp_path):
    module = install("Math.2", dist="odd")
    plugin = scan(tmp_path)["Math.2"]
    assert plugin.status == "broken"
    assert "entry point of odd must match" in plugin.problems[0]
    assert module not in sys.modules


def test_a_disabled_plugin_is_never_imported(install, tmp_path, monkeypatch):
    module = install("off")
    monkeypatch.setenv("COOKBOOK_DISABLE_PLUGINS", "other, off")
    found = Registry.scan([tmp_path])
    assert found.plugins[0].status == "disabled"
    assert module not in sys.modules
    with pytest.raises(UnknownIdError, match="is disabled: COOKBOOK_DISABLE_PLUGINS names off; take it out"):
        found.find("env", "off/sums")


def test_a_slow_import_is_warned_of(install, tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setitem(sys.modules, "made_up_clock", clock)
    install("slow", f"import made_up_clock; made_up_clock.now += 1.04\n{textwrap.dedent(GOOD)}")
    install("swift")
    slow, swift = Registry(points(tmp_path), clock=lambda: clock.now).plugins
    assert (slow.status, slow.import_s, swift.problems) == ("ok", 1.04, [])
    assert "took 1.0 s, on every command; move heavy imports out of made_up_plugin" in slow.problems[0]


def test_what_plugins_print_stays_off_stdout(install, tmp_path):
    noise = "import os, sys\nprint('A', flush=True); os.write(1, b'B'); sys.__stdout__.write('C')\n"
    install("loud", noise + textwrap.dedent(LATE.format("print('D'); os.write(1, b'E')")))
    script = textwrap.dedent(
        """
        import sys
        from cookbook.registry import Registry
        sys.stdout.write("before ")
        assert Registry.scan([sys.argv[1]]).plugins[0].status == "ok"
        print("after")
        """
    )
    path = [str(tmp_path), str(Path(cookbook.__file__).parents[1])]
    script = f"import sys; sys.path[:0] = {path}\n{script}"
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("before after\n", 0)
    assert set(done.stderr) - {"\n"} == set("ABCDE")


@pytest.mark.parametrize("code", [GOOD, "1 / 0"])
def test_stdout_is_put_back_whatever_happens(install, tmp_path, capfd, code):
    class NoFile:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            raise ValueError("closed")

    install("some", f"print('to stderr')\n{textwrap.dedent(code)}")
    with contextlib.redirect_stdout(NoFile()) as stdout:
        scan(tmp_path)
        print("ours", end="")
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    assert stdout.text == "ours"
    assert tuple(capfd.readouterr()) == ("child\n", "to stderr\n")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("made_up_nowhere.part:Thing", "ModuleNotFoundError: No module named 'made_up_nowhere'"),
        ("json:decoder.Nothing", "AttributeError: module 'json.decoder' has no attribute 'Nothing'"),
    ],
)
def test_a_target_that_does_not_exist_is_an_error_when_it_is_loaded(install, tmp_path, target, reason):
    install("some", GOOD.replace("json:dumps", target))
    row = Registry.scan([tmp_path]).find("env", "some/sums")
    with pytest.raises(PluginError) as error:
        row.load()
    assert str(error.value) == f"env some/sums of dist-some 1.0: can't import {target}: {reason}"


def test_a_bare_name_is_cores_and_a_kind_may_stand_before(install, tmp_path):
    install("core")
    install("other")
    found = Registry.scan([tmp_path])
    ids = ("sums", "core/sums", "env:sums", "env:core/sums")
    assert {found.find("env", id).id for id in ids} == {"core/sums"}
    assert found.find_all("sums")[0].id == "core/sums"


@pytest.mark.parametrize(
    ("kind", "id", "error", "message"),
    [
        (
            "env",
            "sums",
            UnknownIdError,
            "no env core/sums: did you mean one/sums or two/sums? `cookbook list env`",
        ),
        ("env", "one/sum", UnknownIdError, "no env one/sum: did you mean one/sums? `cookbook list env`"),
        ("env", "oen/sums", UnknownIdError, "did you mean one/sums or two/sums?"),
        (
            "env",
            "made-up/qqqq",
            UnknownIdError,
            "no env made-up/qqqq: `cookbook list env` lists what there is",
        ),
        ("grader", "one/sums", UnknownIdError, "no grader one/sums: `cookbook list grader`"),
        ("env", "math/gsm8k", UnknownIdError, "isn't installed; pip install cookbook-plugin-math"),
        ("env", "grader:one/sums", ConfigError, "grader:one/sums is no env; `cookbook list env`"),
        ("env", "evn:one/sums", ConfigError, "'evn:one/sums' begins with no kind"),
        (None, "one/sum", UnknownIdError, "no row one/sum: did you mean one/sums? `cookbook list` lists"),
        (None, "backend:one/sums", UnknownIdError, "no backend one/sums: `cookbook list backend`"),
    ],
)
def test_an_unknown_id_says_in_one_line_what_to_do(install, tmp_path, kind, id, error, message):
    install("one")
    install("two")
    found = Registry.scan([tmp_path])
    with pytest.raises(error) as raised:
        found.find(kind, id) if kind else found.find_all(id)
    text = str(raised.value)
    assert message in text
    assert "\n" not in text
    assert ("pip install" in text) == ("math" in id)


def test_an_unknown_name_of_a_shipped_plugin_that_is_there_is_just_unknown(install, tmp_path):
    install("math")
    with pytest.raises(UnknownIdError, match="did you mean math/sums"):
        Registry.scan([tmp_path]).find("env", "math/sum")


RENDERS = """
    from cookbook.hookspecs import hookimpl

    @hookimpl
    def renderer_for_model(model):
        return {}
"""


def test_a_renderer_that_plugins_agree_on_is_the_models(install, tmp_path):
    install("one", RENDERS.format("'core/qwen3' if 'Qwen3' in model else None"))
    install("two", RENDERS.format("'qwen3' if 'Qwen3' in model else None"))
    install("none", GOOD)
    found = Registry.scan([tmp_path])
    assert [plugin.problems for plugin in found.plugins] == [[], [], []]
    assert found.renderer_for_model("Qwen/Qwen3-8B") == "core/qwen3"
    assert found.renderer_for_model("some/other") is None


def test_two_different_renderers_for_a_model_are_an_error_that_names_both(install, tmp_path):
    install("one", RENDERS.format("'core/qwen3'"))
    install("two", RENDERS.format("'two/mine'"))
    with pytest.raises(ConfigError) as error:
        Registry.scan([tmp_path]).renderer_for_model("m")
    assert "core/qwen3 (dist-one 1.0) and two/mine (dist-two 1.0)" in str(error.value)


@pytest.mark.parametrize("answer", ["1 / 0", "7", "__import__('sys').exit(2)"])
def test_a_renderer_hook_that_fails_is_named(install, tmp_path, answer):
    install("one", RENDERS.format(answer))
    with pytest.raises(PluginError, match=r"renderer_for_model\('m'\) of dist-one 1.0 failed: "):
        Registry.scan([tmp_path]).renderer_for_model("m")


def test_the_module_asks_what_is_installed_and_scans_it_once(install, tmp_path, monkeypatch):
    install("good", GOOD + textwrap.indent(textwrap.dedent(RENDERS.format("'good/x'")), "    "))
    monkeypatch.setattr(registry.metadata, "entry_points", lambda *, group: points(tmp_path))
    registry.default.cache_clear()
    try:
        assert registry.find("env", "good/sums") is registry.default().find("env", "good/sums")
        assert registry.renderer_for_model("m") == "good/x"
    finally:
        registry.default.cache_clear()
