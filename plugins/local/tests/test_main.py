"""`python -m cookbook_plugin_local SCRIPT`: as `python SCRIPT`, on this machine."""

import os
import subprocess
import sys

import pytest
import tinker

from cookbook_plugin_local.client import ServiceClient

TRAINS = """
import sys
import tinker
from tinker import RestClient, ServiceClient, types
from tinker.lib.public_interfaces.service_client import ServiceClient as Same

assert tinker.ServiceClient is ServiceClient is Same
service = tinker.ServiceClient(user_metadata={"by": "me"})
client = service.create_lora_training_client(base_model="org/model", rank=4, seed=0).result()
assert isinstance(client, tinker.TrainingClient)
datum = types.Datum(
    model_input=types.ModelInput.from_ints([5, 6, 7]),
    loss_fn_inputs={"target_tokens": [6, 7, 8], "weights": [1.0, 1.0, 1.0]},
)
for _ in range(3):
    output = client.forward_backward([datum], "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2))
    print(output.result().metrics["loss:sum"])
path = client.save_state("final").result().path
print(RestClient().get_training_run_by_tinker_path(path).result().base_model)
from transformers import AutoTokenizer
assert AutoTokenizer.from_pretrained("org/model").encode("Hi") == client.get_tokenizer().encode("Hi")
"""


@pytest.fixture
def start(tmp_path):
    """`start(arguments, ...)`: what ended, started in a folder of its own."""

    def run(*arguments, module="cookbook_plugin_local"):
        before = ["-m", module] if module else []
        env = os.environ | {"COOKBOOK_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *before, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return run


@pytest.fixture
def script(tmp_path):
    def write(text, name="scripts/script.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_script_trains_on_a_model_that_stands_in_for_its_own(start, script, folder, tmp_path):
    ended = start("--alias", f"org/model={folder}", script(TRAINS))
    assert ended.returncode == 0, ended.stderr
    *losses, model = ended.stdout.split()
    assert float(losses[2]) < float(losses[1]) < float(losses[0])
    assert model == "org/model"
    [run] = (tmp_path / "runs").iterdir()
    assert (run / "weights" / "final").is_dir()


LOOKS = """
import json, os, sys
import helper
print(json.dumps([__name__, __file__, sys.argv, sys.path[0], helper.WHERE, sys.modules["__main__"].__file__]))
"""


def test_a_script_sees_what_it_sees_under_plain_python(start, script):
    script("WHERE = __file__", "scripts/helper.py")
    name = script(LOOKS)
    plain, ours = start(name, "a", "--alias", "-m", module=None), start(name, "a", "--alias", "-m")
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == plain.stdout


def test_a_module_sees_what_it_sees_under_plain_python(start, script):
    script("WHERE = __file__", "helper.py")
    script("", "package/__init__.py")
    script(LOOKS, "package/inside.py")
    plain, ours = start("-m", "package.inside", "a", module=None), start("-m", "package.inside", "a")
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == plain.stdout


@pytest.mark.parametrize(
    "end", ["import sys; sys.exit(3)", "import sys; sys.exit('no luck')", "def f():\n  1 / 0\n\nf()", "1 +"]
)
def test_a_script_ends_as_it_ends_under_plain_python(start, script, end):
    name = script(end)
    plain, ours = start(name, module=None), start(name)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert ours.stderr == plain.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "give a script, or -m and a module"),
        (("nowhere.py",), "no script 'nowhere.py' here"),
        (("-m", "no.such.module"), "no module 'no.such.module'"),
        (("--speed", "x.py"), "no option '--speed'"),
        (("--alias", "org/model", "x.py"), "--alias 'org/model': give ID=FOLDER"),
        (("--alias",), "--alias '': give ID=FOLDER"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_2(start, arguments, line):
    ended = start(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line in ended.stderr and ended.stderr.count("\n") == 1


def test_an_alias_for_a_model_that_is_not_there_is_one_line_and_2(start, script):
    ended = start("--alias=org/model=nowhere", script("print('ran')"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "model 'nowhere' is neither a folder here" in ended.stderr and ended.stderr.count("\n") == 1


def test_the_help_names_every_option(start):
    ended = start("--help")
    assert ended.returncode == 0 and "--alias ID=FOLDER" in ended.stdout and "-m MODULE" in ended.stdout


def test_tinker_itself_is_as_it_was_in_any_other_process():
    assert tinker.ServiceClient is not ServiceClient
