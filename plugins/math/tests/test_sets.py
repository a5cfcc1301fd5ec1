"""Sets of problems: where they are read from, how they are split, and what ships."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook.errors import ConfigError
from cookbook_plugin_math.integer import Integer
from cookbook_plugin_math.problems import is_held_out, normal
from cookbook_plugin_math.rows import SAMPLES
from cookbook_plugin_math.sets import GSM8K, DeepMath, Hendrycks, Polaris

MAKER = Path(__file__).parent / "make_samples.py"
SETS = [GSM8K, Hendrycks, Polaris, DeepMath]


def env(cls, source, **options):
    return cls(source=str(source), grader=Integer(), **options)


def asked(questions):
    """The problems' texts, without what follows them."""
    return [q.prompt[-1]["content"].partition(" Reason step by step")[0] for q in questions]


def references(questions):
    return [q.reference for q in questions]


def words(*texts, answer="1"):
    """Rows of gsm8k's form."""
    return [{"question": text, "answer": f"so it is {answer}.\n#### {answer}"} for text in texts]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(make):
    with pytest.raises(ConfigError) as caught:
        make().tasks("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Where rows come from -------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
def test_a_file_of_any_form_gives_the_same_problems(tmp_path, ending):
    rows = words("one, say", 'two "quoted"', "three\nlines", answer="1,234")
    file = write(tmp_path / f"mine.{ending}", rows)
    train = env(GSM8K, file, held_out=0.0).tasks("train")
    assert asked(train) == [row["question"] for row in rows] and references(train) == ["1234"] * 3


def test_a_csv_files_answers_are_what_stands_there(tmp_path):
    rows = [
        {"problem": f"p{i}", "answer": a, "difficulty": "1/8"}
        for i, a in enumerate(["007", "NA", "1.0", "x"])
    ]
    train = env(Polaris, write(tmp_path / "p.csv", rows), held_out=0.0).tasks("train")
    assert references(train) == ["007", "NA", "1.0", "x"]


def test_an_answer_may_be_a_number(tmp_path):
    rows = [{"problem": "a", "answer": 42}, {"problem": "b", "answer": 0}]
    file = write(tmp_path / "p.jsonl", rows)
    assert references(env(Polaris, file, held_out=0.0).tasks("train")) == ["42", "0"]


@pytest.mark.parametrize(
    "place", ["main/train-00000-of-00001.parquet", "train.jsonl", "data/train-1.csv", "x.json"]
)
def test_a_folder_is_read_as_it_lies_on_the_hub(tmp_path, place):
    write(tmp_path / place, words("a", "b"))
    write((tmp_path / place).parent / "test-00000-of-00001.parquet", words("c"))
    write((tmp_path / place).parent / "validation.jsonl", words("d"))
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A set")
    gsm8k = env(GSM8K, tmp_path)
    assert asked(gsm8k.tasks("train")) == ["a", "b"] and asked(gsm8k.tasks("test")) == ["c"]


def test_several_files_of_a_split_come_in_the_order_of_their_names(tmp_path):
    for i in (2, 0, 1):
        write(tmp_path / "data" / f"train-{i}-of-3.parquet", [{"question": f"q{i}", "final_answer": "1"}])
    assert asked(env(DeepMath, tmp_path, held_out=0.0).tasks("train")) == ["q0", "q1", "q2"]


def test_a_folder_that_save_to_disk_made_is_read(tmp_path):
    parts = {
        "train": datasets.Dataset.from_list(words("a", "b")),
        "test": datasets.Dataset.from_list(words("c")),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    parts["train"].save_to_disk(str(tmp_path / "one"))
    parts["test"].save_to_disk(str(tmp_path / "two"))
    both = env(GSM8K, tmp_path / "both")
    assert asked(both.tasks("train")) == ["a", "b"] and asked(both.tasks("test")) == ["c"]
    apart = env(GSM8K, tmp_path / "one", test_source=str(tmp_path / "two"))
    assert asked(apart.tasks("train")) == ["a", "b"] and asked(apart.tasks("test")) == ["c"]


def test_math_takes_all_subjects_and_both_splits(tmp_path):
    def row(text, answer):
        return {"problem": text, "level": "Level 1", "type": "T", "solution": f"so $\\boxed{{{answer}}}$"}

    write(tmp_path / "m" / "algebra" / "train-00000-of-00001.parquet", [row("a", "\\frac{1}{2}")])
    write(tmp_path / "m" / "algebra" / "test-00000-of-00001.parquet", [row("b", "2"), row("c", "3")])
    write(tmp_path / "m" / "geometry" / "train-00000-of-00001.parquet", [row("d", "4")])
    apart = [
        {"problem": "c", "solution": "", "answer": "3", "subject": "Algebra", "level": 1, "unique_id": "1"}
    ]
    file = write(tmp_path / "MATH-500" / "test.jsonl", apart)
    for test_source in (file, file.parent):
        math = env(Hendrycks, tmp_path / "m", test_source=str(test_source))
        assert references(math.tasks("train")) == ["\\frac{1}{2}", "4", "2"]
        assert asked(math.tasks("test")) == ["c"] and references(math.tasks("test")) == ["3"]


def test_the_hub_is_asked_for_the_real_ids_configs_and_splits(monkeypatch):
    calls = []

    def load_dataset(id, config=None, *, split):
        calls.append((id, config, split))
        columns = ["question", "problem", "answer", "final_answer", "solution"]
        value = f"\\boxed{{{len(calls)}}} #### {len(calls)}"
        return datasets.Dataset.from_dict(
            {c: [f"{value} {c}" if c in columns[:2] else value] for c in columns}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for cls in SETS:
        assert len(env(cls, "").tasks("train"))
    subjects = (
        "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"
    )
    assert calls == [
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
        *(("EleutherAI/hendrycks_math", s, split) for split in ("train", "test") for s in subjects.split()),
        ("HuggingFaceH4/MATH-500", None, "test"),
        ("POLARIS-Project/Polaris-Dataset-53K", None, "train"),
        ("zwhe99/DeepMath-103K", None, "train"),
    ]


def test_rows_of_the_hub_without_an_answer_are_left_out_and_counted(monkeypatch, caplog):
    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": None}, {"problem": "", "answer": "3"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    assert asked(env(Polaris, "", held_out=0.0).tasks("train")) == ["a"]
    assert "2 rows of POLARIS-Project/Polaris-Dataset-53K left out" in caplog.text and "row 2" in caplog.text


@pytest.mark.parametrize("cls", SETS)
def test_a_hub_that_cant_be_reached_is_one_line(cls):
    line = refused(lambda: env(cls, ""))
    assert cls(grader=Integer()).about().train.id in line
    assert "HF_HUB_OFFLINE" in line and "env.source=FILE" in line and "env.source=sample" in line


def test_a_bad_file_is_one_line_with_the_file_and_the_row(tmp_path):
    def gsm8k(name, rows):
        return refused(lambda: env(GSM8K, write(tmp_path / name, rows)))

    no_hashes = [*words("a"), {"question": "b", "answer": "it is 4"}]
    assert f"{tmp_path}/1.jsonl, row 2: 'answer' holds no answer; it must be a solution" in gsm8k(
        "1.jsonl", no_hashes
    )
    assert "2.parquet, row 1: 'question' holds no problem" in gsm8k("2.parquet", words("  "))
    assert "3.json: no column 'answer' among question" in gsm8k("3.json", [{"question": "a"}])
    assert "4.jsonl, row 2: 'answer' holds no answer" in gsm8k("4.jsonl", [*words("a"), {"question": "b"}])
    no_box = write(tmp_path / "5.jsonl", [{"problem": "p", "solution": "it is 4"}])
    assert (
        "5.jsonl, row 1: 'solution' holds no answer; it must be a solution with its result in \\boxed"
        in refused(lambda: env(Hendrycks, no_box, test_source=str(no_box)))
    )


def test_what_cant_be_read_at_all_is_one_line(tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"question": "a", "ans\n')
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "nothing").mkdir()
    for name, said in {
        "broken.jsonl": "can't be read (",
        "broken.parquet": "can't be read (",
        "empty.jsonl": "holds no rows",
        "notes.txt": "a file ends in .json, .jsonl, .parquet, .csv",
        "nothing": "tell their split (train.jsonl)",
        "nowhere.jsonl": "there is no such file or folder; leave it empty for openai/gsm8k",
    }.items():
        line = refused(lambda name=name: env(GSM8K, tmp_path / name))
        assert said in line and str(tmp_path / name) in line
    write(tmp_path / "only" / "test.jsonl", words("a"))
    assert "no problems of the split train" in refused(lambda: env(GSM8K, tmp_path / "only"))


def test_listing_what_there_is_imports_no_datasets():
    code = "import sys; from cookbook import cli; cli.main(['list', 'env']); print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "math/gsm8k" in done.stdout and done.stdout.splitlines()[-1] == "False"


# --- Splits ---------------------------------------------------------------------------------------------


def test_what_is_held_out_isnt_trained_on_in_any_spelling(tmp_path):
    write(
        tmp_path / "train.jsonl",
        words("What is 2 + 2?", "  what IS 2+2?", "What is 3 + 3?", "What\nis 2 +2?"),
    )
    write(tmp_path / "test.jsonl", words("What is 2 + 2?"))
    gsm8k = env(GSM8K, tmp_path)
    assert asked(gsm8k.tasks("train")) == ["What is 3 + 3?"] and asked(gsm8k.tasks("test")) == [
        "What is 2 + 2?"
    ]


def test_math_500_is_held_out_of_training(tmp_path):
    rows = [{"problem": f"Find $x_{{{i}}}$.", "solution": f"\\boxed{{{i}}}"} for i in range(50)]
    apart = [{"problem": f"find  $x_{{{i}}}$.", "answer": str(i)} for i in range(0, 50, 7)]
    source, test = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", apart)
    math = env(Hendrycks, source, test_source=str(test))
    train, held_out = (set(map(normal, asked(math.tasks(split)))) for split in ("train", "test"))
    assert len(train) == 42 and len(held_out) == 8 and not train & held_out


def test_a_local_math_needs_to_know_its_held_out_problems(tmp_path):
    with pytest.raises(ConfigError, match=r"needs env.test_source too: .* of HuggingFaceH4/MATH-500"):
        env(Hendrycks, tmp_path)


@pytest.mark.parametrize(("cls", "column"), [(Polaris, "problem"), (DeepMath, "question")])
def test_a_share_told_by_the_text_alone_is_held_out_where_there_is_no_test_split(tmp_path, cls, column):
    answer = {"problem": "answer", "question": "final_answer"}[column]
    rows = [{column: f"Problem {i % 900}", answer: "1"} for i in range(1000)]
    first = env(cls, write(tmp_path / "a.jsonl", rows), held_out=0.1)
    train, test = (asked(first.tasks(split)) for split in ("train", "test"))
    assert len(train) + len(test) == 1000 and not set(train) & set(test)
    assert 60 < len(test) < 150
    random.Random(0).shuffle(rows)
    other = env(cls, write(tmp_path / "b.jsonl", rows[:700]), held_out=0.1)
    kept = {row[column] for row in rows[:700]}
    assert set(asked(other.tasks("test"))) == set(test) & kept
    assert set(asked(other.tasks("train"))) == set(train) & kept


def test_a_share_that_comes_to_nothing_is_told(tmp_path, caplog):
    assert (
        len(env(Polaris, write(tmp_path / "a.jsonl", [{"problem": "x", "answer": "1"}])).tasks("test")) == 0
    )
    assert "env.held_out=0.01 of 1 problems leaves none to evaluate on" in caplog.text


def test_problems_that_come_twice_stay(tmp_path):
    file = write(tmp_path / "a.jsonl", words("a", "b", "a"))
    assert asked(env(GSM8K, file, held_out=0.0).tasks("train")) == ["a", "b", "a"]


def test_nothing_left_to_train_on_is_one_line(tmp_path):
    file = write(tmp_path / "a.jsonl", words("a", "b"))
    assert "all 2 problems of" in refused(lambda: env(GSM8K, file, test_source=str(file)))


@given(st.text(max_size=30), st.sampled_from([0.0, 0.3, 0.999999]))
def test_whether_a_problem_is_held_out_depends_on_its_normal_text_only(text, share):
    assert is_held_out(text, share) == is_held_out(f" {text}\n", share)
    assert not is_held_out(text, 0.0)


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="'validation'"):
        env(GSM8K, "sample").tasks("validation")


# --- What ships -----------------------------------------------------------------------------------------


def test_the_shipped_problems_are_what_the_script_beside_writes(tmp_path):
    subprocess.run([sys.executable, str(MAKER), str(tmp_path)], check=True)
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.jsonl")}
    assert made == {file.relative_to(SAMPLES): file.read_bytes() for file in SAMPLES.rglob("*.jsonl")}
    assert max(map(len, made.values())) < 60_000


@pytest.mark.parametrize("cls", SETS)
def test_the_shipped_problems_make_both_splits_and_share_none(cls):
    sample = env(cls, "sample", held_out=0.2)
    train, test = sample.tasks("train"), sample.tasks("test")
    assert len(train) >= 40 and len(test) >= 6
    assert not set(map(normal, asked(train))) & set(map(normal, asked(test)))
    assert len(set(asked(train))) == len(train)


def test_the_shipped_word_problems_are_100_and_30():
    gsm8k = env(GSM8K, "sample")
    assert (len(gsm8k.tasks("train")), len(gsm8k.tasks("test"))) == (100, 30)
    assert all(q.reference.isdecimal() for split in ("train", "test") for q in gsm8k.tasks(split))
