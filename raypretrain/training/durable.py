"""Checkpoints in a second place, for a run that loses its folder: object storage, or another folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypretrain import storage
from raypretrain.errors import RunError, StorageError
from raypretrain.storage import Options
from raypretrain.training.checkpoint import MANIFEST, parse_manifest
from raypretrain.training.checkpoint_config import CheckpointConfig
from raypretrain.training.retention import kept
from raypretrain.training.writing import Files, HashedFile

_AT_ONCE = 4
_COPY = 1 << 22
LOGS = "logs"
"""Folder beside the checkpoints, with the run's logs as they were when the newest was committed."""


@dataclass(frozen=True)
class Copies:
    """The checkpoints below ``url``: ``step-00001000/…``, each with its manifest written last."""

    url: str
    options: Options | None = None

    @classmethod
    def of(cls, config: CheckpointConfig) -> Copies | None:
        """As a recipe asks for them, if it does."""
        if config.copy_to is None:
            return None
        options = {"endpoint_url": config.endpoint_url} if config.endpoint_url else None
        return cls(config.copy_to.rstrip("/"), options)

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Upload files of a checkpoint's local folder.

        Raises:
            StorageError: one cannot be.
        """
        _each(
            lambda name: storage.upload(folder / name, f"{self.url}/{folder.name}/{name}", self.options),
            names,
        )

    def begin(self, folder: Path) -> None:
        """A checkpoint of this name will come: one that is there is none any more."""
        storage.remove(f"{self.url}/{folder.name}/{MANIFEST}", self.options)

    def commit(self, folder: Path, logs: Iterable[Path] = ()) -> None:
        """All files are there: now the logs, and last the manifest.

        Raises:
            StorageError: they cannot be written.
        """
        for log in logs:
            if log.is_file():
                storage.upload(log, f"{self.url}/{LOGS}/{log.name}", self.options)
        storage.upload(folder / MANIFEST, f"{self.url}/{folder.name}/{MANIFEST}", self.options)

    def names(self) -> dict[int, dict[str, int]]:
        """Step → the files of its copy, with their sizes; of all that are there, committed or not.

        Raises:
            StorageError: the place cannot be listed.
        """
        found: dict[int, dict[str, int]] = {}
        for info in storage.list_files(self.url, self.options):
            match = re.search(r"/step-(\d+)/(.+)$", info.url)
            if match:
                found.setdefault(int(match[1]), {})[match[2]] = info.size
        return found

    def steps(self) -> list[int]:
        """The steps that have a manifest, the newest first.

        Raises:
            StorageError: the place cannot be listed.
        """
        return sorted((step for step, names in self.names().items() if MANIFEST in names), reverse=True)

    def manifest(self, step: int) -> dict[str, Any]:
        """What the manifest of a copy says.

        Raises:
            RunError: it is damaged.
            StorageError: it cannot be read.
        """
        return parse_manifest(self.manifest_text(step), self._file(step, MANIFEST))

    def manifest_text(self, step: int) -> str:
        """The manifest of a copy, as it is there."""
        with storage.open_read(self._file(step, MANIFEST), self.options) as file:
            return file.read().decode("utf-8", errors="replace")

    def fetch(self, step: int, folder: Path, files: Files) -> str | None:
        """Download ``files`` of a copy to ``folder``, hashed on the way; returns what is wrong with one, if any is."""
        problems: list[str] = []

        def fetch(name: str) -> None:
            problem = self._fetch(step, folder, name, files[name])
            if problem:
                problems.append(problem)

        _each(fetch, files)
        return min(problems, default=None)

    def fetch_logs(self, to: Iterable[Path]) -> None:
        """Download the logs that are not there.

        Raises:
            StorageError: one cannot be read or written.
        """
        for log in to:
            url = f"{self.url}/{LOGS}/{log.name}"
            if not log.is_file() and storage.exists(url, self.options):
                with storage.open_read(url, self.options) as file:
                    storage.write_atomic(log, file.read())

    def problem_of(self, step: int) -> str | None:
        """What is wrong with a copy, as a line; reads all of it.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            files = self.manifest(step)["files"]
        except RunError as error:
            return error.what
        return self.fetch(step, Path(os.devnull), files)

    def prune(self, keep: int, every: int | None, best: bool) -> None:
        """Remove what need not stay, as :func:`~raypretrain.training.checkpoint.prune` does; manifests first.

        Raises:
            StorageError: something cannot be listed or removed.
        """
        names = self.names()
        whole = [step for step in sorted(names, reverse=True) if MANIFEST in names[step]]
        if not whole:
            return
        losses: dict[int, float] = {}
        if best and len(whole) > keep:
            losses = {step: loss for step in whole if (loss := self._loss(step)) is not None}
        stay = kept(whole, keep, every, losses)
        for step in names:
            if step not in stay and step < whole[0]:
                for name in sorted(names[step], key=lambda name: name != MANIFEST):
                    storage.remove(self._file(step, name), self.options)
                if not storage.is_remote(self.url):
                    shutil.rmtree(f"{self.url.removeprefix('file://')}/step-{step:08d}", ignore_errors=True)

    def _loss(self, step: int) -> float | None:
        try:
            loss: float | None = self.manifest(step).get("held_out_loss")
        except RunError:
            return None
        return loss

    def _fetch(self, step: int, folder: Path, name: str, about: dict[str, Any]) -> str | None:
        path = folder / name if folder != Path(os.devnull) else folder
        try:
            if path == folder:
                target = HashedFile(path, sync=False)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                target = HashedFile(path)
            with storage.open_read(self._file(step, name), self.options) as source, target as file:
                shutil.copyfileobj(source, file, _COPY)
        except StorageError as error:
            if not storage.exists(self._file(step, name), self.options):
                return f"{name} is missing"
            raise error
        if file.about["bytes"] != about["bytes"]:
            return f"{name} has {file.about['bytes']} bytes instead of {about['bytes']}"
        return None if file.about == about else f"{name} is damaged (its SHA-256 differs)"

    def _file(self, step: int, name: str) -> str:
        return f"{self.url}/step-{step:08d}/{name}"


def _each(action: Any, names: Iterable[str]) -> None:
    """Do it to each, some at once; the first error of all."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(action, list(names)):
            pass
