"""A contestant in a process of its own, as its user runs it: with memory, settings and compiled code of its own."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from peers import ENTRIES, Contestant, Form
from sizes import Work


class Here:
    """A contestant in this process."""

    def __init__(self, name: str, work: Work, form: Form) -> None:
        self._contestant: Contestant = ENTRIES[name].make(work, form)
        self._work = work
        self.parameters, self.flops = self._contestant.parameters, self._contestant.flops

    def seconds(self, steps: int) -> float:
        """Of one of so many steps."""
        self._work.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            self._contestant.step()
        self._work.synchronize()
        return (time.perf_counter() - begun) / steps

    def close(self) -> None:
        """End what it has running."""
        self._contestant.close()


class Apart:
    """The same in a process of its own, with as many threads as this one has; it waits between its turns."""

    def __init__(self, name: str, work: Work, form: Form) -> None:
        self._who = f"{name}, {form}"
        start = multiprocessing.get_context("spawn")
        self._pipe, theirs = start.Pipe()
        self._process = start.Process(
            target=_serve, args=(theirs, torch.get_num_threads(), name, work, form), daemon=True
        )
        self._process.start()
        theirs.close()
        self.parameters, self.flops = self._answer()

    def seconds(self, steps: int) -> float:
        """Of one of so many steps."""
        self._pipe.send(steps)
        taken: float = self._answer()
        return taken

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            said = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"{self._who}: its process ended with {self._process.exitcode}") from None
        if isinstance(said, Exception):
            raise said
        return said


def _serve(pipe: Connection, threads: int, name: str, work: Work, form: Form) -> None:
    torch.set_num_threads(threads)
    here = None
    try:
        here = Here(name, work, form)
        pipe.send((here.parameters, here.flops))
        while True:
            pipe.send(here.seconds(pipe.recv()))
    except EOFError:
        pass  # there are no more turns
    except Exception as error:
        pipe.send(RuntimeError(f"{name}, {form}: {type(error).__name__}: {error}"))
    finally:
        if here:
            here.close()
