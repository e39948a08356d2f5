"""Every error that a user can cause: one base class, one line of text, exit status 2."""

from __future__ import annotations


class RaypretrainError(Exception):
    """An error that the user can mend: bad input, a wrong recipe, a cluster that is too small.

    The command line prints it as one line (what, where, what to do) and ends with status 2. A bug of ours is any
    other exception, and shows its traceback.

    Args:
        what: what is wrong, e.g. ``"no file matches"``.
        where: a file, ``file:line``, or the key of a recipe. Printed first.
        fix: what the user can do about it. Printed last.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        # All three go to Exception.args so that the error survives pickling between Ray processes.
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.fix:
            line += f"; {self.fix}"
        return " ".join(line.split())


def _rebuild(cls: type[RaypretrainError], what: str, where: str | None, fix: str | None) -> RaypretrainError:
    return cls(what, where=where, fix=fix)


class RecipeError(RaypretrainError):
    """A recipe that cannot be read, or whose values are wrong or do not go together."""


class InputError(RaypretrainError):
    """A corpus file, a labelled file or a base model that cannot be used."""


class StorageError(RaypretrainError):
    """A folder or a bucket that cannot be read or written."""


class ClusterError(RaypretrainError):
    """A cluster or a machine that cannot run the recipe."""


class RunError(RaypretrainError):
    """A run's folder that does not fit what is asked of it."""


def user_error(error: BaseException) -> RaypretrainError | None:
    """The user's error inside ``error``: Ray wraps what a task raises, often several times over."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's wrapper is an instance of the class that it wraps, but holds none of its values.
        cause = getattr(current, "cause", None)
        if isinstance(current, RaypretrainError) and cause is None:
            return current
        queue += [current.__cause__, current.__context__, cause if isinstance(cause, BaseException) else None]
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict):
            queue += [f for f in failures.values() if isinstance(f, BaseException)]
    return None
