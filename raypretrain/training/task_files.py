"""A user's own lm-eval task files, read before lm-eval reads them: broken ones are named, and code is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raypretrain.config import nearest
from raypretrain.errors import InputError

_PLAIN_DATA = {"json", "csv", "text", "parquet", "arrow"}
"""What ``dataset_path`` says of data that ``dataset_kwargs.data_files`` names; else it is one of the hub's."""
_PASSED_OVER = {"__pycache__", ".ipynb_checkpoints"}  # by lm-eval
_CODE_KEYS = ("hf_evaluate", "custom_generate", "trust_remote_code")
"""With these, a task has Python fetched from somewhere and run; ``!function`` is the other way."""
_TRUST = "give --allow-code if you trust whoever wrote it"


@dataclass(frozen=True)
class TaskFile:
    """A task or a group of tasks.

    Args:
        values: its keys, those of the files that it includes among them.
    """

    path: Path
    values: dict[str, Any]

    @property
    def is_group(self) -> bool:
        """Whether it may name others, lm-eval's own among them."""
        return "group" in self.values

    @property
    def is_local(self) -> bool:
        """Whether it is a task whose data are files here."""
        files = list(_texts((self.values.get("dataset_kwargs") or {}).get("data_files")))
        plain = self.values.get("dataset_path") in _PLAIN_DATA and not self.is_group
        return plain and bool(files) and not any("://" in file for file in files)


def read_task_folder(folder: Path, allow_code: bool) -> dict[str, TaskFile]:
    """The tasks and groups in the ``.yaml`` files of a folder, by name.

    Every file is read, those that nobody asked for too: what is there can be named by another.

    Raises:
        InputError: no such folder, no task in it, a file that cannot be read, a name that two have, or, unless
            ``allow_code``, one that has Python run.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), fix="give the folder of task files")
    found: dict[str, TaskFile] = {}
    for path in sorted(folder.glob("**/*.yaml")):
        if _PASSED_OVER.intersection(path.parts):
            continue
        values = _read(path, allow_code, ())
        name = values.get("group", values.get("task"))
        if name is None:  # what others include
            continue
        if not isinstance(name, str):
            raise InputError(f"'task: {name}' is no name", where=str(path), fix="give a list a 'group' too")
        if name in found:
            raise InputError(f"'{name}' is also the name of what {found[name].path} holds", where=str(path))
        found[name] = TaskFile(path, values)
    if not found:
        fix = "give the folder of .yaml files with a key 'task'"
        raise InputError("holds no task file", where=str(folder), fix=fix)
    return found


def check_names(
    file: TaskFile, keys: Collection[str], metrics: Collection[str], aggregations: Collection[str]
) -> None:
    """See that a file names nothing that lm-eval has not.

    A metric that it has not it would look for elsewhere, and run the script that it finds.

    Raises:
        InputError: it does.
    """
    for key in file.values:
        if key not in keys:
            raise _unknown("key", key, keys, file.path)
    for metric in _every(file.values, "metric_list"):
        for entry in metric if isinstance(metric, list) else []:
            entry = entry if isinstance(entry, dict) else {}
            if entry.get("hf_evaluate"):  # and it was allowed
                continue
            for key, known in (("metric", metrics), ("aggregation", aggregations)):
                if isinstance(entry.get(key), str) and entry[key] not in known:
                    raise _unknown(f"metric_list.{key}", entry[key], known, file.path)


def _unknown(what: str, name: str, known: Collection[str], path: Path) -> InputError:
    guess = nearest(name, known)
    return InputError(
        f"unknown {what} '{name}'", where=str(path), fix=f"did you mean '{guess}'?" if guess else None
    )


def _read(path: Path, allow_code: bool, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise InputError("includes itself", where=str(path))
    try:
        values = yaml.load(path.read_bytes(), Loader=_loader(path, allow_code))
    except OSError as error:
        fix = f"{above[-1]} includes it" if above else None
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), fix=fix) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"is no YAML ({getattr(error, 'problem', None) or error})", where=where) from None
    if not isinstance(values, dict):
        raise InputError("holds no keys", where=str(path), fix="a task file is a mapping with a key 'task'")
    for key in () if allow_code else _CODE_KEYS:
        if any(_every(values, key)):
            raise InputError(f"'{key}' has Python run that comes with it", where=str(path), fix=_TRUST)
    merged: dict[str, Any] = {}
    for name in _texts(values.pop("include", None)):
        merged |= _read(path.parent / name, allow_code, (*above, path.resolve()))
    return merged | values


def _loader(path: Path, allow_code: bool) -> Any:
    """A loader of plain values that knows lm-eval's ``!function``, and calls nothing."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def function(loader: Any, node: yaml.Node) -> str:
        if not allow_code:
            raise InputError(
                f"'!function {node.value}' has Python of this folder run",
                where=f"{path}:{node.start_mark.line + 1}",
                fix=_TRUST,
            )
        return f"!function {node.value}"

    Loader.add_constructor("!function", function)
    return Loader


def _every(values: Any, key: str) -> Iterator[Any]:
    """The value of every ``key``, however deep."""
    if isinstance(values, dict):
        if key in values:
            yield values[key]
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _every(value, key)


def _texts(values: Any) -> Iterator[str]:
    """Every text in a text, a list or a mapping of such."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, list | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)
