"""The user's errors: one line, they survive pickling, and they are found inside what Ray wraps them in."""

from __future__ import annotations

import pickle

import pytest

from raypretrain.errors import (
    ClusterError,
    InputError,
    RaypretrainError,
    RecipeError,
    RunError,
    StorageError,
    user_error,
)

CLASSES = [RecipeError, InputError, StorageError, ClusterError, RunError]


def test_what_where_and_fix_stand_in_this_order() -> None:
    assert str(InputError("no file matches", where="data/*.txt", fix="check it")) == (
        "data/*.txt: no file matches; check it"
    )
    assert str(InputError("no file matches")) == "no file matches"
    assert str(InputError("no file matches", fix="check it")) == "no file matches; check it"


def test_it_is_one_line_whatever_it_is_made_of() -> None:
    error = RunError("first\nsecond\r\n  third", where="a\nfile", fix="do\tthis")
    assert str(error) == "a file: first second third; do this"


@pytest.mark.parametrize("kind", CLASSES)
def test_it_survives_pickling_with_all_three_parts(kind: type[RaypretrainError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", where="where", fix="fix")))
    assert type(error) is kind
    assert (error.what, error.where, error.fix, str(error)) == ("what", "where", "fix", "where: what; fix")
    assert pickle.loads(pickle.dumps(kind("what"))).where is None


class Wrapper(RuntimeError):
    """As Ray's: holds what went wrong in ``cause``."""

    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("wrapped")
        self.cause = cause


def chained(error: BaseException) -> BaseException:
    try:
        raise ValueError("outer") from error
    except ValueError as outer:
        return outer


def in_passing(error: BaseException) -> BaseException:
    try:
        try:
            raise error
        except BaseException:
            raise KeyError("while handling it")  # noqa: B904
    except KeyError as outer:
        return outer


def of_a_worker(error: BaseException) -> BaseException:
    outer = RuntimeError("training failed")
    outer.worker_failures = {0: ValueError("lost"), 1: error}  # type: ignore[attr-defined]
    return outer


@pytest.mark.parametrize("wrap", [lambda e: e, chained, in_passing, Wrapper, of_a_worker])
def test_it_is_found_inside_any_wrapper_and_several_of_them(wrap) -> None:  # type: ignore[no-untyped-def]
    error = StorageError("no space left")
    assert user_error(wrap(error)) is error
    assert user_error(Wrapper(chained(wrap(error)))) is error
    assert user_error(of_a_worker(Wrapper(wrap(wrap(error))))) is error


def test_a_bug_of_ours_is_no_error_of_the_users() -> None:
    assert user_error(chained(Wrapper(ValueError("a bug")))) is None
    assert user_error(Wrapper(None)) is None


def test_a_circle_of_causes_ends() -> None:
    one, other = Wrapper(None), Wrapper(None)
    one.cause, other.cause = other, one
    assert user_error(one) is None


def test_it_is_found_in_what_ray_makes_of_it() -> None:
    from ray.exceptions import RayTaskError

    error = InputError("is cut off", where="a.jsonl.zst", fix="copy it again")
    wrapped = RayTaskError("read_window", "a traceback\nof many lines", error).as_instanceof_cause()
    # The wrapper is an InputError by its class, but its text is the traceback: it must not be shown.
    assert isinstance(wrapped, InputError)
    assert user_error(wrapped) is error
    twice = RayTaskError("take", "another traceback", wrapped).as_instanceof_cause()
    found = user_error(twice)
    assert found is error
    assert str(found) == "a.jsonl.zst: is cut off; copy it again"
