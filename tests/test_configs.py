"""Configs settled from layers, on a plugin of the test's own and on the real `RLConfig`."""

import importlib
import json
import sys
import textwrap
from importlib import metadata

import chz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import EnvConfig, registry
from cookbook.configs import Settled, from_argv, help_text, layers_of, preset, settle
from cookbook.errors import ConfigError, CookbookError, PluginError, UnknownIdError
from cookbook.registry import Registry

HOOKS = """
    from cookbook.hookspecs import hookimpl
    PARTS = "made_up_words.parts:"

    @hookimpl
    def register_envs(register):
        register("sums", PARTS + "Sums", "Adding up")
        register("wide", PARTS + "Sums", "Adding up long ones", options={"digits": 9, "pair": [5, 6]})
        register("judged", PARTS + "Judged", "With a grader by id")
        register("mild", PARTS + "Judged", "With a mild grader", options={"grader": "words/lax"})
        register("strict", PARTS + "Strict", "With an option that must be given")

    @hookimpl
    def register_graders(register):
        register("judge", PARTS + "Judge", "Says yes or no")
        register("lax", PARTS + "Judge", "Says yes", options={"strict": False})

    @hookimpl
    def register_trackers(register):
        register("follow", PARTS + "Follow", "Goes along")
        register("odd", "json:dumps", "No config at all")
"""
PARTS = """
    from pathlib import Path
    from typing import Literal
    import chz
    from cookbook import EnvConfig, GraderConfig, TrackerConfig, by_id

    @chz.chz(typecheck=True)
    class Judge(GraderConfig):
        strict: bool = chz.field(default=True, doc="yes only where it is")
        def grade(self, prompt, reply, reference): ...

    @chz.chz(typecheck=True)
    class Sums(EnvConfig):
        digits: int = chz.field(default=2, doc="of each number")
        pair: tuple[int, ...] = (1, 2)
        note: str | None = None
        def tasks(self, split): return []

    @chz.chz(typecheck=True)
    class Judged(EnvConfig):
        grader: GraderConfig = chz.field(meta_factory=by_id("grader", default="words/judge"))
        digits: int = 7
        def tasks(self, split): return []

    @chz.chz(typecheck=True)
    class Strict(EnvConfig):
        level: int
        def tasks(self, split): return []

    @chz.chz(typecheck=True)
    class Follow(TrackerConfig):
        where: str = ""
        def open(self, run): ...

    @chz.chz(typecheck=True)
    class Inner:
        scale: float = 1.0
        judge: GraderConfig = chz.field(meta_factory=by_id("grader", default="words/judge"))

    @chz.chz(typecheck=True)
    class Nested(Inner):
        more: int = 0

    @chz.chz(typecheck=True)
    class Job:
        env: EnvConfig = chz.field(meta_factory=by_id("env"), doc="what is played")
        evals: tuple[EnvConfig, ...] = chz.field(default=(), meta_factory=by_id("env", many=True))
        trackers: tuple[TrackerConfig, ...] = chz.field(default=(), meta_factory=by_id("tracker", many=True))
        inner: Inner
        steps: int = chz.field(default=10, doc="batches")
        lr: float = 1e-4
        betas: tuple[float, float] = (0.9, 0.95)
        model: str = "m"
        loss: Literal["sum", "mean"] = "sum"
        grid: tuple[tuple[int, ...], ...] = ()
        cache: Path | None = None
"""


@pytest.fixture(scope="module", autouse=True)
def words(tmp_path_factory):
    """The installed plugins, and one called words; returns the module with its parts."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "made_up_words").mkdir()
    (folder / "made_up_words" / "__init__.py").write_text(textwrap.dedent(HOOKS))
    (folder / "made_up_words" / "parts.py").write_text(textwrap.dedent(PARTS))
    info = folder / "dist_words-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-words\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cookbook]\nwords = made_up_words\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        points = [p for dist in metadata.distributions(path=[str(folder)]) for p in dist.entry_points]
        made = Registry([*metadata.entry_points(group="cookbook"), *points])
        patch.setattr(registry, "default", lambda: made)
        yield importlib.import_module("made_up_words.parts")
    for name in ("made_up_words", "made_up_words.parts"):
        del sys.modules[name]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def job(*argv: str, recipe=None, local=None) -> Settled:
    return settle(importlib.import_module("made_up_words.parts").Job, layers(argv, recipe, local))


def layers(argv, recipe=None, local=None):
    recipe = {"env": "words/sums"} if recipe is None else recipe
    return [("recipe", recipe), *([("local", local)] if local else []), from_argv(argv)]


def refusal(*argv: str, **given) -> str:
    """The one line that settling answers with."""
    with pytest.raises(CookbookError) as error:
        job(*argv, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_later_layer_wins_over_the_earlier():
    recipe, local = (
        {"env": "words/sums", "steps": 2, "lr": 2.0, "model": "two"},
        {"lr": 3.0, "model": "three"},
    )
    settled = job("model=four", recipe=recipe, local=local)
    assert (settled.config.loss, settled.config.steps) == ("sum", 2)
    assert (settled.config.lr, settled.config.model) == (3.0, "four")


def test_help_names_each_value_and_the_layer_that_it_is_from(words):
    recipe = {"env": "words/judged", "steps": 2, "env.digits": 4, "lr": 2.0}
    text = help_text(words.Job, layers(["loss=mean", "env.digits=5"], recipe, {"lr": 3.0}))
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines()}
    said = {
        "env": "words/judged (from recipe) what is played",
        "env.digits": "5 (from command line)",
        "env.grader": "words/judge (default)",
        "env.grader.strict": "True (default) yes only where it is",
        "steps": "2 (from recipe) batches",
        "lr": "3.0 (from local)",
        "model": "'m' (default)",
        "loss": "mean (from command line)",
    }
    assert {name: line for name, line in lines.items() if not line.endswith(said.get(name, ""))} == {}
    assert said.keys() <= lines.keys()


def test_help_comes_where_a_value_is_missing_or_unknown_and_is_refused_where_one_is_wrong(words):
    text = help_text(words.Job, [("recipe", {}), from_argv(["evals.0=words/strict", "stepz=1"])])
    assert "evals.0.level" in text
    assert text.startswith("  env ")
    with pytest.raises(
        ConfigError, match=r"^steps: Could not cast 'many' to int \(--help lists the options\)$"
    ):
        help_text(words.Job, layers(["steps=many"]))


BY_ID = [
    (["env=words/wide"], {"env": "words/wide", "env.digits": 9, "env.pair": [5, 6]}),
    (["env=words/wide", "env.digits=3"], {"env.digits": 3, "env.pair": [5, 6]}),
    (["env=env:words/wide"], {"env": "words/wide", "env.digits": 9}),
    (["env=words/mild"], {"env.grader": "words/lax", "env.grader.strict": False, "env.digits": 7}),
    (["evals.0=words/mild", "evals.0.grader=words/judge"], {"evals.0.grader.strict": True}),
    (["env.pair=3,4,5"], {"env": "words/sums", "env.pair": [3, 4, 5]}),
    (["env.note=None"], {"env.note": None}),
    (["env=words/judged"], {"env.grader": "words/judge", "env.grader.strict": True}),
    (["env=words/judged", "env.grader=words/lax"], {"env.grader": "words/lax", "env.grader.strict": False}),
    (["env=words/judged", "env.grader=words/lax", "env.grader.strict=true"], {"env.grader.strict": True}),
    (["env=made_up_words.parts:Judged"], {"env": "made_up_words.parts:Judged", "env.digits": 7}),
    (["inner.judge=words/lax", "inner.scale=2"], {"inner.judge": "words/lax", "inner.judge.strict": False}),
    (["inner=made_up_words.parts:Nested", "inner.more=3"], {"inner.more": 3, "inner.judge": "words/judge"}),
    (["evals.0=words/sums", "evals.0.digits=3"], {"evals.0": "words/sums", "evals.0.digits": 3}),
    (
        ["evals.1.digits=5", "evals.1=words/wide", "evals.0=words/judged", "evals.0.grader=words/lax"],
        {"evals.0.grader": "words/lax", "evals.0.grader.strict": False, "evals.1.digits": 5},
    ),
    ([f"evals.{i}=words/sums" for i in range(11)] + ["evals.10.digits=1"], {"evals.10.digits": 1}),
    (
        ["trackers.0=words/follow", "trackers.0.where=a=b"],
        {"trackers.0": "words/follow", "trackers.0.where": "a=b"},
    ),
    (["betas=0.1,0.2", "model=", "lr=3e-4"], {"betas": [0.1, 0.2], "model": "", "lr": 3e-4}),
]


@pytest.mark.parametrize(("argv", "values"), BY_ID, ids=[" ".join(argv)[:60] for argv, _ in BY_ID])
def test_a_part_is_chosen_by_id_and_its_options_follow(argv, values):
    assert values.items() <= job(*argv).values().items()


def test_a_class_of_the_current_folder_needs_no_registration(here):
    (here / "my_made_up_env.py").write_text(textwrap.dedent(PARTS))
    settled = job("env=my_made_up_env:Sums", "env.digits=6", "evals.0=my_made_up_env:Sums")
    assert type(settled.config.env).__module__ == "my_made_up_env"
    assert settled.values()["env"] == settled.values()["evals.0"] == "my_made_up_env:Sums"
    assert settled.config.env.digits == 6


@pytest.mark.parametrize(
    ("code", "target", "reason"),
    [
        ("", "made_up_bad:Env", r"env=made_up_bad:Env: module 'made_up_bad' has no attribute 'Env'; it must"),
        ("", "made_up_nowhere:Env", "No module named 'made_up_nowhere'; there is no made_up_nowhere.py in /"),
        ("1 / 0", "made_up_bad:Env", "importing made_up_bad failed: ZeroDivisionError: division by zero"),
        ("def (", "made_up_bad:Env", "importing made_up_bad failed: SyntaxError: .*made_up_bad.py, line 1"),
        ("import sys; sys.exit('no\\nlicence')", "made_up_bad:Env", "failed: SystemExit: no licence"),
        ("class Env: pass", "made_up_bad:Env", "not a @chz.chz class derived from EnvConfig"),
        (PARTS, "made_up_bad:Judge", "env 'made_up_bad:Judge' is <class .* derived from EnvConfig"),
    ],
)
def test_a_class_of_the_current_folder_that_will_not_do_is_refused_in_a_line(here, code, target, reason):
    (here / "made_up_bad.py").write_text(textwrap.dedent(code))
    with pytest.raises(PluginError, match=reason):
        job(f"env={target}")
    assert "\n" not in refusal(f"env={target}")


OLD = {"env": "words/judged", "env.digits": 8, "env.grader": "words/lax", "env.grader.strict": True}


def test_another_id_drops_the_recipes_values_for_the_old_one_and_says_so():
    settled = job("env=words/sums", "env.note=x", recipe=OLD)
    assert {"env": "words/sums", "env.digits": 2, "env.note": "x"}.items() <= settled.values().items()
    assert settled.dropped == [
        "env.digits=8 of the recipe was for env=words/judged, dropped",
        "env.grader=words/lax of the recipe was for env=words/judged, dropped",
        "env.grader.strict=True of the recipe was for env=words/judged, dropped",
    ]


@pytest.mark.parametrize(
    "argv", [["env=words/judged"], ["env=env:words/judged"], ["steps=3"], ["env.grader=words/lax"]]
)
def test_the_same_id_keeps_the_recipes_values(argv):
    settled = job(*argv, recipe=OLD)
    assert OLD.items() <= settled.values().items()
    assert settled.dropped == []


def test_an_id_further_in_drops_only_what_is_below_it():
    settled = job("env.grader=words/judge", recipe=OLD)
    assert {"env.digits": 8, "env.grader.strict": True}.items() <= settled.values().items()
    assert settled.dropped == ["env.grader.strict=True of the recipe was for env.grader=words/lax, dropped"]


def test_values_for_the_default_id_go_with_it():
    settled = job("inner.judge=words/lax", recipe={"env": "words/sums", "inner.judge.strict": True})
    assert settled.config.inner.judge.strict is False
    assert settled.dropped == [
        "inner.judge.strict=True of the recipe was for inner.judge=words/judge, dropped"
    ]


def test_local_values_lie_between_recipe_and_command_line():
    local = {"env": "words/sums", "env.digits": 3, "steps": 1}
    settled = job("steps=5", recipe=OLD | {"lr": 2.0}, local=local)
    assert {"env": "words/sums", "env.digits": 3, "steps": 5, "lr": 2.0}.items() <= settled.values().items()
    assert len(settled.dropped) == 3
    settled = job("env=words/judged", recipe=OLD, local=local)
    assert OLD.items() <= settled.values().items()
    assert settled.dropped == ["env.digits=3 of the local was for env=words/sums, dropped"]


def test_an_element_of_a_tuple_is_replaced_alone_and_more_can_follow():
    recipe = {"env": "words/sums", "evals.0": "words/sums", "evals.0.digits": 4, "evals.1": "words/wide"}
    settled = job("evals.0=words/judged", "evals.2=words/sums", recipe=recipe)
    said = {"evals.0": "words/judged", "evals.0.digits": 7, "evals.1.digits": 9, "evals.2.digits": 2}
    assert said.items() <= settled.values().items()
    assert settled.dropped == ["evals.0.digits=4 of the recipe was for evals.0=words/sums, dropped"]
    assert job("evals.0=words/sums", recipe={"env": "words/sums", "evals": []}).config.evals[0].digits == 2


def test_a_config_object_given_from_python_stands_as_it_is(words):
    given = {"env": words.Sums(digits=4), "evals": (words.Judged(grader=words.Judge()),)}
    settled = job(recipe=given)
    assert (settled.config.env, settled.config.evals) == (given["env"], given["evals"])
    assert settled.values()["env"] == "made_up_words.parts:Sums"
    assert job("env=words/judged", recipe=given).config.env.digits == 7


WRONG = {
    ("steps=abc",): "steps: Could not cast 'abc' to int",
    ("steps=1.5",): "steps: Could not cast '1.5' to int",
    ("env.digits=x",): "env.digits: Could not cast 'x' to int",
    ("evals.0=words/sums", "evals.0.digits=x"): "evals.0.digits: Could not cast 'x' to int",
    ("loss=max",): "loss: Could not cast 'max' to Literal",
    ("inner=3",): "inner: Could not cast '3'",
    ("stepz=3",): "there is no option 'stepz'; did you mean 'steps'? (--help lists them)",
    ("env.digit=3",): "there is no option 'env.digit'; did you mean 'env.digits'?",
    ("qqqqqq=3",): "there is no option 'qqqqqq' (--help lists them)",
    ("env.digits.x=3",): "there is no option 'env.digits.x'",
    ("evals.0=words/sums", "evals.0.digit=3"): "did you mean 'evals.0.digits'?",
    ("env=words/strict",): "env.level not given: add env.level=...",
    ("evals.0=words/strict",): "evals.0.level not given: add evals.0.level=...",
    ("steps=1", "steps=2"): "'steps' is given twice: '1' and '2'; keep one",
    ("steps",): "'steps' isn't key=value; options look like steps=20 or env.digits=3",
    ("=3",): "'=3' isn't key=value",
    ("...steps=3",): "'...steps=3' isn't key=value",
    ("env...digits=3",): "isn't key=value",
    ("evals.-1=words/sums",): "isn't key=value",
    ("env=words/sum",): "there is no env words/sum: did you mean words/sums?",
    ("env=math/nope",): "there is no env math/nope",
    ("env=words/judge",): "there is no env words/judge",
    ("env=grader:words/judge",): "grader:words/judge is no env; `cookbook list env`",
    ("env=",): "there is no env",
    ("env=lambda: 3",): "begins with no kind",
    ("env=made_up_words.parts:Judge",): "not a @chz.chz class derived from EnvConfig",
    ("trackers.0=words/odd",): "tracker 'words/odd' is <function dumps",
    ("trackers.0=words/sums",): "there is no tracker words/sums",
    ("env=words/judged", "env.grader=words/nope"): "there is no grader words/nope",
    ("evals=words/sums",): "evals holds several: give each its number, evals.0=... evals.1=...",
    ("evals.1=words/sums",): "evals.0 not given: add evals.0=... (evals is numbered from 0)",
    ("evals.0=words/sums", "evals.00=words/sums"): "evals.1 not given",
    ("evals.x=words/sums",): "evals.0 not given",
    ("evals.0.digits=3",): "evals.0 not given: add evals.0=...",
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_what_is_wrong_on_the_command_line_is_one_line(argv):
    assert WRONG[argv] in refusal(*argv)


def test_all_that_is_missing_is_named_at_once():
    from cookbook.rl import RLConfig

    with pytest.raises(ConfigError, match=r"^model, env not given: add model=\.\.\. env=\.\.\.$"):
        settle(RLConfig, [from_argv([])])


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"env": "words/sums", "stepz": 3}, "did you mean 'steps'"),
        ({"env": "words/sums", "steps": None}, "Expected 'steps' to be int"),
        ({"env": "words/sums", "steps": 1.5}, "Expected 'steps' to be int"),
        ({"env": "words/gone"}, "there is no env words/gone"),
        ({"env": 3}, "env"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_one_line_too(recipe, reason):
    assert reason in refusal(recipe=recipe)


def test_an_id_that_is_gone_does_no_harm_where_another_is_chosen():
    settled = job("env=words/sums", recipe={"env": "gone/env", "env.x": 1})
    assert settled.dropped == ["env.x=1 of the recipe was for env=gone/env, dropped"]


def test_a_range_that_a_config_checks_itself_keeps_its_words():
    from cookbook.rl import RLConfig

    for word, reason in (
        ("group_size=1", "group_size=1: must be 2"),
        ("limits.max_turns=0", r"^limits\.max_turns=0: must be more than 0"),
    ):
        with pytest.raises(ConfigError, match=reason):
            settle(RLConfig, [from_argv(["env=math/arithmetic", "model=m", word])])


def test_a_preset_is_its_differences_and_carries_what_local_adds(words):
    blueprint = preset(words.Job, name="words/job", env="words/sums", **{"env.digits": 3}, local={"steps": 1})
    assert layers_of(blueprint) == [("recipe", {"env": "words/sums", "env.digits": 3})]
    assert (blueprint.name, blueprint.local) == ("words/job", {"steps": 1})
    assert job(recipe=dict(layers_of(blueprint)[0][1])).config.env.digits == 3


def again(settled: Settled) -> None:
    """Settling a config's own values, alone and through JSON, gives an equal config."""
    values = settled.values()
    for layer in (values, json.loads(json.dumps(values, allow_nan=False))):
        other = settle(type(settled.config), [("record", layer)])
        assert other.config == settled.config
        assert other.values() == values
        assert other.dropped == []


@pytest.mark.parametrize("argv", [argv for argv, _ in BY_ID], ids=[" ".join(argv)[:60] for argv, _ in BY_ID])
def test_the_values_of_a_config_give_it_back(argv):
    again(job(*argv))


def test_the_values_of_unregistered_parts_give_them_back(here, words):
    (here / "my_made_up_env.py").write_text(textwrap.dedent(PARTS))
    again(
        job(
            "env=my_made_up_env:Judged",
            "evals.0=my_made_up_env:Sums",
            "evals.0.pair=7",
            "env.grader=words/lax",
        )
    )
    again(job(recipe={"env": words.Sums(pair=()), "evals": (words.Strict(level=1),)}))
    again(job(recipe={"env": "words/sums", "grid": ((1, 2), (3,)), "betas": (0.5, 1.0)}))


OPTIONS = {
    "digits": st.integers(-(10**6), 10**6),
    "pair": st.lists(st.integers(), min_size=1, max_size=3).map(tuple),
    "note": st.none() | st.text(max_size=8),
}
ENVS = st.sampled_from(["words/sums", "words/wide", "made_up_words.parts:Sums"]).flatmap(
    lambda id: st.fixed_dictionaries({"": st.just(id)}, optional=OPTIONS)
)


@settings(database=None, deadline=None, max_examples=60)
@given(
    env=ENVS,
    evals=st.lists(ENVS, max_size=3),
    rest=st.fixed_dictionaries(
        {}, optional={"model": st.text(max_size=8), "lr": st.floats(allow_nan=False, allow_infinity=False)}
    ),
)
def test_the_values_of_any_config_give_it_back(env, evals, rest):
    parts = [("env", env), *((f"evals.{i}", e) for i, e in enumerate(evals))]
    recipe = {f"{at}.{k}".rstrip("."): v for at, part in parts for k, v in part.items()} | rest
    settled = job(recipe=recipe)
    values = settled.values()
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in recipe.items()}.items() <= values.items()
    again(settled)


def test_the_values_of_an_rl_run_give_it_back():
    from cookbook.rl import RLConfig

    argv = [
        "env=words/judged",
        "model=m",
        "backend=local/torch",
        "backend.dtype=float32",
        "limits.max_turns=3",
    ]
    argv += ["evals.0=math/arithmetic", "evals.0.digits=3", "trackers.0=words/follow", "advantage=mean"]
    settled = settle(RLConfig, [from_argv(argv)])
    again(settled)
    assert settled.ids == {
        "env": ("env", "words/judged"),
        "env.grader": ("grader", "words/judge"),
        "backend": ("backend", "local/torch"),
        "evals.0": ("env", "math/arithmetic"),
        "trackers.0": ("tracker", "words/follow"),
    }
    assert "limits" not in settled.values()


def test_a_bare_id_is_recorded_as_cores():
    from cookbook.rl import RLConfig

    settled = settle(
        RLConfig, [from_argv(["env=words/sums", "model=m", "backend=tinker", "backend.base_url=http://u"])]
    )
    assert settled.values()["backend"] == "core/tinker"
    assert settled.config.backend.base_url == "http://u"


def test_a_base_class_cannot_be_made_without_its_method():
    @chz.chz
    class Nothing(EnvConfig):
        pass

    with pytest.raises(TypeError, match="tasks"):
        Nothing()


def test_an_unknown_id_is_a_lookup_error_and_a_wrong_value_a_value_error():
    for word, kind in (("env=words/gone", LookupError), ("steps=x", ValueError), ("env=a:B", ImportError)):
        with pytest.raises(kind) as error:
            job(word)
        assert isinstance(error.value, (UnknownIdError, ConfigError, PluginError))
