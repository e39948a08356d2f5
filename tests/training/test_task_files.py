"""A user's lm-eval task files: what is in them, what is wrong with them, and that none has code run unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypretrain.errors import InputError
from raypretrain.training.task_files import TaskFile, check_names, read_task_folder

TASK = """\
task: mood
dataset_path: json
dataset_kwargs: {data_files: {test: data/mood.jsonl}}
"""
TRUST = "give --allow-code if you trust whoever wrote it"


def read(folder: Path, allow_code: bool = False, **files: str) -> dict[str, TaskFile]:
    """A folder of these files, by their names without ``.yaml``."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return read_task_folder(folder, allow_code)


def test_a_file_has_the_keys_of_what_it_includes_and_its_own_come_first(tmp_path: Path) -> None:
    (tmp_path / "_common").write_text("test_split: test\ndoc_to_text: theirs\n")
    found = read(
        tmp_path, mood=TASK + "include: _common\ndoc_to_text: ours\n", both="group: both\ntask: [mood]"
    )
    assert found.keys() == {"mood", "both"}
    assert found["mood"].path == tmp_path / "mood.yaml"
    assert found["mood"].values["test_split"] == "test"
    assert found["mood"].values["doc_to_text"] == "ours"


@pytest.mark.parametrize(
    ("text", "local"),
    [
        (TASK, True),
        (TASK.replace("data/mood.jsonl", "[a.jsonl, b.jsonl]"), True),
        (TASK.replace("data/mood.jsonl", "https://example.org/mood.jsonl"), False),
        ("task: mood\ndataset_path: json\n", False),
        ("task: mood\ndataset_path: someone/mood\ndataset_kwargs: {data_files: {test: mood.jsonl}}\n", False),
        ("group: mood\ntask: [arc_easy]\n", False),
    ],
)
def test_a_task_is_local_where_its_data_are_files_here(tmp_path: Path, text: str, local: bool) -> None:
    assert read(tmp_path, mood=text)["mood"].is_local is local


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            TASK + "process_docs: !function utils.clean\n",
            "mood.yaml:4: '!function utils.clean' has Python of this",
        ),
        (
            TASK + "metric_list:\n  - {metric: f1, hf_evaluate: true}\n",
            "mood.yaml: 'hf_evaluate' has Python run",
        ),
        (
            TASK + "generation_kwargs: {custom_generate: ./evil}\n",
            "mood.yaml: 'custom_generate' has Python run",
        ),
        (TASK + "include: code\n", "code:1: '!function utils.clean' has Python of this folder run"),
    ],
)
def test_code_is_refused_with_its_place_unless_it_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "code").write_text("process_docs: !function utils.clean\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path, mood=text)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert str(caught.value).endswith(TRUST)
    assert "mood" in read(tmp_path, allow_code=True, mood=text)


def test_code_in_a_file_that_nobody_asked_for_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other\.yaml:2: '!function x\.y'"):
        read(tmp_path, mood=TASK, other="task: other\nprocess_docs: !function x.y\n")


def test_no_tag_of_yaml_makes_an_object_even_where_code_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mood\.yaml:4: is no YAML"):
        read(tmp_path, allow_code=True, mood=TASK + "x: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, ": holds no task file; give the folder of .yaml files with a key 'task'"),
        ({"mood": "task: [mood\n"}, "/mood.yaml:2: is no YAML (did not find expected ',' or ']')"),
        ({"mood": "- mood\n"}, "/mood.yaml: holds no keys; a task file is a mapping with a key 'task'"),
        ({"mood": "task: [a, b]\n"}, "/mood.yaml: 'task: ['a', 'b']' is no name; give a list a 'group' too"),
        ({"a": TASK, "b": TASK}, "/b.yaml: 'mood' is also the name of what "),
        ({"mood": TASK + "include: gone\n"}, "/gone: cannot be read (No such file or directory); "),
        ({"mood": TASK + "include: mood.yaml\n"}, "/mood.yaml: includes itself"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, **files)
    assert str(caught.value).startswith(f"{tmp_path}{said}")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no/such: there is no such folder"):
        read_task_folder(Path("no/such"), False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("doc_to_txt: x\n", "unknown key 'doc_to_txt'; did you mean 'doc_to_text'?"),
        (
            "metric_list: [{metric: acuracy}]\n",
            "unknown metric_list.metric 'acuracy'; did you mean 'accuracy'?",
        ),
        (
            "metric_list: [{metric: accuracy, aggregation: meen}]\n",
            "unknown metric_list.aggregation 'meen'; did you mean 'mean'?",
        ),
    ],
)
def test_names_that_lm_eval_has_not_are_refused_with_the_nearest(
    tmp_path: Path, more: str, said: str
) -> None:
    keys = {"task", "dataset_path", "dataset_kwargs", "doc_to_text", "metric_list"}
    with pytest.raises(InputError) as caught:
        check_names(read(tmp_path, mood=TASK + more)["mood"], keys, ["accuracy"], ["mean"])
    assert str(caught.value) == f"{tmp_path}/mood.yaml: {said}"
