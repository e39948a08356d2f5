"""What a model is adapted to: labelled examples in three splits, checked before anything is spent on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from raypretrain.config import Config, Count
from raypretrain.errors import InputError
from raypretrain.finetuning.kinds.kind import Kind, kind_class
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.near_duplicates import near_duplicate_groups
from raypretrain.finetuning.rows import LabelledFile, read_rows
from raypretrain.finetuning.splits import hash_split


class TaskConfig(Config):
    """One task.

    Args:
        name: names the task in results and folders.
        kind: ``classify``: each text has one of a few labels. ``label``: any number of them. ``regress``: a number.
            ``tag``: each word has a tag. ``generate``: answers to messages. ``embed``: pairs of texts that belong
            together. ``prefer``: of two answers the better one. Or a class of yours, as ``MODULE:CLASS``.
        train, validation, test: labelled files. Without ``validation``, ``validation_share`` of the training
            examples are set aside, and without ``test``, ``test_share`` of them if it is given: chosen by a hash of
            their text, so that they stay the same ones when others come, with each label's share, and with their
            near-duplicates.
        labels: the classes in the order of the scores; otherwise those of the training examples, sorted.
        examples: how many training examples a trial takes, drawn by its seed and evenly over the classes'
            shares; otherwise all.
        validation_examples: the same for validation, drawn once for all trials.
        overlap: what happens where texts of the test or validation set are among the training examples:
            ``refuse`` them, or ``drop`` them from the training examples. Near-duplicates of them are always dropped.
        between: what parts the words of a sentence (``tag``); nothing in scripts that part none.
        beta: how strongly the model is held at what it was (``prefer``).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: str = "classify"
    train: LabelledFile
    validation: LabelledFile | None = None
    test: LabelledFile | None = None
    labels: list[str] | None = Field(default=None, min_length=2)
    examples: Count | None = Field(default=None, gt=1)
    validation_examples: Count | None = Field(default=None, gt=0)
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    test_share: float | None = Field(default=None, gt=0, lt=1)
    overlap: Literal["refuse", "drop"] = "refuse"
    between: str = " "
    beta: float = Field(default=0.1, gt=0)


@dataclass(frozen=True)
class Task:
    """The examples of a task, and its kind, which knows what there is to learn."""

    config: TaskConfig
    kind: Kind
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    dropped: int = 0
    """Training examples that were left out because a near-duplicate is in the test or validation set."""

    @property
    def name(self) -> str:
        """Of the task, as in the recipe."""
        return self.config.name

    def draw(self, seed: int, examples: int | None = None) -> np.ndarray:
        """Places in ``train`` of the examples that the trials with this seed learn from, int64, ascending.

        Args:
            examples: how many; None: as many as the task says.

        Raises:
            InputError: there are not so many, or fewer are wanted than there are labels.
        """
        wanted = examples or self.config.examples
        if wanted is None:
            return np.arange(len(self.train))
        strata = self.kind.strata(self.train)
        if wanted > len(self.train):
            raise InputError(
                f"examples: {wanted}, but there are {len(self.train)} to train on",
                where=self.config.train.path,
                fix="set fewer, or leave the key out to take all",
            )
        if wanted < len(np.unique(strata)):
            raise InputError(
                f"examples: {wanted} is less than one for each of the {len(np.unique(strata))} labels"
            )
        return stratified(strata, wanted, seed)

    @property
    def fingerprint(self) -> str:
        """sha256 of all texts and labels with their split, and of how examples are drawn from them."""
        digest = hashlib.sha256(repr((self.kind, self.config.examples)).encode())
        for split in (self.train, self.validation, self.test):
            for example in split:
                digest.update(f"{len(example.text)} {example.label} ".encode() + example.text.encode())
            digest.update(b"\n")
        return digest.hexdigest()


def load_task(config: TaskConfig) -> Task:
    """Read and check the files of a task.

    Raises:
        InputError: a file cannot be used, there is one class only, a split holds a label that the training
            examples lack, splits overlap, or there are fewer examples than asked for.
    """
    sort = kind_class(config.kind)
    train = read_examples(sort, config.train)
    kind = sort.fit(config, train)
    splits: dict[str, list[Example]] = {"validation": [], "test": []}
    for name, file in (("test", config.test), ("validation", config.validation)):
        if file is not None:
            splits[name] = read_examples(sort, file)
            kind.check(splits[name], file)
            train = _without_overlap(config, train, splits[name], file)
    groups = near_duplicate_groups([e.text for part in (train, *splits.values()) for e in part])
    own, others = groups[: len(train)], groups[len(train) :]
    kept = ~np.isin(own, others)
    dropped = int((~kept).sum())
    train, own = [e for e, keep in zip(train, kept, strict=True) if keep], own[kept]
    for name, share in (("test", config.test_share), ("validation", config.validation_share)):
        if getattr(config, name) is None and share is not None:
            train, own, splits[name] = _set_aside(config, kind, train, own, name, share)
    return _sized(Task(config, kind, train, splits["validation"], splits["test"], dropped))


def read_examples(kind: type[Kind], file: LabelledFile) -> list[Example]:
    """All examples of a file (or of several, sorted by name).

    Raises:
        InputError: no file, a broken file, or a row that is no example of this kind.
    """
    return [kind.parse(row, where, file) for where, row in read_rows(file)]


def stratified(classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` places of ``classes``, drawn by ``seed``, ascending; each class keeps its share, or one."""
    random = np.random.default_rng(seed)
    sizes = np.bincount(classes)
    exact = sizes * (count / len(classes))
    take = np.maximum(np.floor(exact).astype(np.int64), (sizes > 0).astype(np.int64))
    for i in np.argsort(take - exact, kind="stable"):
        if take.sum() < count and take[i] < sizes[i]:
            take[i] += 1
    while take.sum() > count:  # only where rare classes were given their one
        take[np.argmax(take)] -= 1
    drawn = [random.permutation(np.flatnonzero(classes == i))[:n] for i, n in enumerate(take)]
    return np.sort(np.concatenate(drawn))


def _without_overlap(
    config: TaskConfig, train: list[Example], split: list[Example], file: LabelledFile
) -> list[Example]:
    seen = {example.text.strip() for example in split}
    common = [example for example in train if example.text.strip() in seen]
    if common and config.overlap == "refuse":
        text = " ".join(common[0].text.split())
        raise InputError(
            f"{len(common)} of its texts are also in {file.path}, e.g. '{text[:60]}'",
            where=config.train.path,
            fix="remove them, or set the task's overlap: drop",
        )
    return [example for example in train if example.text.strip() not in seen] if common else train


def _set_aside(
    config: TaskConfig, kind: Kind, train: list[Example], groups: np.ndarray, split: str, share: float
) -> tuple[list[Example], np.ndarray, list[Example]]:
    """The training examples that stay, their groups, and those of a split, by a hash that is the split's own."""
    strata = kind.strata(train)
    aside = hash_split([e.text.strip() for e in train], groups, strata.tolist(), share, salt=split)
    if not aside.any():
        raise InputError(
            f"{split}_share {share:g} sets aside none of them of {len(train)} examples",
            where=config.train.path,
            fix=f"give more examples or a {split} file",
        )
    parts = [[e for e, out in zip(train, aside, strict=True) if out == is_out] for is_out in (False, True)]
    return parts[0], groups[~aside], parts[1]


def _sized(task: Task) -> Task:
    """Check ``examples``, apply ``validation_examples``."""
    task.draw(seed=0)
    most = task.config.validation_examples
    if most is None or most >= len(task.validation):
        return task
    drawn = stratified(task.kind.strata(task.validation), most, seed=0)
    return replace(task, validation=[task.validation[i] for i in drawn])
