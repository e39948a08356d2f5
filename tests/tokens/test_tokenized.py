"""A tokenized copy: the same parts as from text, and nothing else, whatever happens to its files."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from real_text import reviews
from s3_server import S3Server, use_keys

from raypretrain import storage
from raypretrain.corpus.documents import BadRecord
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, StorageError
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Batches, Part
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.tokenized import (
    BEGUN,
    FINISHED,
    Copy,
    TokenizedWindows,
    fetch_companions,
    read_copy,
)
from raypretrain.tokens.tokenized_files import FileOfParts
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_fixed import Bytes
from raypretrain.tokens.window import SequencesConfig, Windows

WINDOWS = 8


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Windows of two sources; of one, that comes in parts, and of bad records."""
    folder = tmp_path_factory.mktemp("text")
    texts = reviews(300)
    for i in range(3):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[i:200:3]]
        (folder / f"{i}.jsonl").write_text("".join(lines) + "no JSON\n", encoding="utf-8")
    (folder / "large.txt").write_text("\n\n".join(texts[200:]), encoding="utf-8")
    tokenizer = train_tokenizer(
        iter(texts), TokenizerConfig(vocabulary=512), folder / "tok" / "tokenizer.model", 1
    )
    sources = [
        SourceConfig(path=f"{folder}/*.jsonl"),
        SourceConfig(path=f"{folder}/large.txt", documents="block"),
    ]
    corpus = CorpusConfig(sources=sources, held_out=0.1, on_bad_input="quarantine")
    config = SequencesConfig(length=64, window=20_000, packing="best-fit")
    return Windows(build_manifest(corpus, 1 << 20), corpus, config, tokenizer, seed=3)


def parts_of(windows: Windows | TokenizedWindows, first: int = 0) -> Iterator[Part]:
    return (part for w in windows.windows_from(first) for part in windows.parts(w))


def written(
    parts: list[Part],
    folder: Path | str,
    tokenizer: Tokenizer,
    each: int,
    options: storage.Options | None = None,
) -> Copy:
    """A copy of ``parts``, ``each`` to a file."""
    files = []
    for number, start in enumerate(range(0, len(parts), each)):
        file = FileOfParts(number, tokenizer.vocabulary)
        for part in parts[start : start + each]:
            file.add(part)
        content, about = file.finish()
        storage.write(f"{folder}/{about.name}", content, options)
        files.append(about)
    copy = Copy(
        settings={"run.seed": 3},
        corpus="c",
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.vocabulary,
        companions={},
        files=files,
        next=(parts[-1].window, parts[-1].part + 1),
    )
    storage.write(f"{folder}/{FINISHED}", copy.to_json(), options)
    return copy


def read_back(
    folder: Path | str, windows: Windows, options: storage.Options | None = None
) -> TokenizedWindows:
    copy = read_copy(str(folder), options)
    assert copy is not None
    return TokenizedWindows(str(folder), options, copy, windows.manifest, windows.tokenizer)


def same(one: Part, other: Part) -> bool:
    arrays = ("tokens", "begins", "filled", "sources")
    return (one.window, one.part, one.bad) == (other.window, other.part, other.bad) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in ((getattr(one.sequences, n), getattr(other.sequences, n)) for n in arrays)
    )


@pytest.fixture(scope="module")
def parts(windows: Windows) -> list[Part]:
    found = [part for w in itertools.islice(windows.windows_from(0), WINDOWS) for part in windows.parts(w)]
    assert {part.part for part in found} > {0, 1}, "a window in parts is wanted"
    assert any(part.bad for part in found)
    return found


# ---------------------------------------------------------------------------------- the same as from text


@pytest.mark.parametrize("each", [1, 3, 100])
def test_a_copy_has_the_parts_of_the_text(
    windows: Windows, parts: list[Part], tmp_path: Path, each: int
) -> None:
    copy = written(parts, tmp_path, windows.tokenizer, each)
    found = read_back(tmp_path, windows)
    again = list(parts_of(found))
    assert len(again) == len(parts)
    assert all(same(a, b) for a, b in zip(again, parts, strict=True))
    assert copy.sequences == sum(len(part.sequences) for part in parts)
    assert copy.tokens == sum(int(part.sequences.filled.sum()) for part in parts)
    assert copy.bad_records == sum(len(part.bad) for part in parts)
    assert list(found.windows_from(0)) == list(dict.fromkeys(part.window for part in parts))


def test_it_can_be_read_from_any_window_and_part(windows: Windows, parts: list[Part], tmp_path: Path) -> None:
    written(parts, tmp_path, windows.tokenizer, 4)
    found = pickle.loads(pickle.dumps(read_back(tmp_path, windows)))
    for part in parts:
        assert same(next(found.parts(part.window, part.part)), part)
        assert next(found.windows_from(part.window)) == part.window
    last = parts[-1]
    assert list(found.parts(last.window + 1)) == []
    assert list(found.windows_from(last.window + 1)) == []


def test_batches_from_a_copy_are_those_from_text(windows: Windows, parts: list[Part], tmp_path: Path) -> None:
    written(parts, tmp_path, windows.tokenizer, 2)
    found = read_back(tmp_path, windows)
    start = Cursor()
    for number in range(6):
        cursor = start if number % 2 else Cursor()  # also on from where a batch ended
        one = Batches(parts_of(windows, cursor.window), cursor, repeat(12))
        other = Batches(parts_of(found, cursor.window), cursor, repeat(12))
        a, b = next(one), next(other)
        assert np.array_equal(a.sequences.tokens, b.sequences.tokens)
        assert (a.cursor, a.bad) == (b.cursor, b.bad)
        start = a.cursor


def test_windows_that_hold_nothing_are_passed_over_and_empty_parts_kept(
    tmp_path: Path, windows: Windows
) -> None:
    none = Sequences(*(a[:0] for a in vars(parts_of(windows).__next__().sequences).values()))
    full = next(parts_of(windows)).sequences
    bad = [BadRecord("is no text", "x.jsonl:3", 0, 70)]
    parts = [Part(0, 0, full), Part(3, 0, none, bad), Part(4, 0, full), Part(9, 0, none)]
    written(parts, tmp_path, windows.tokenizer, 2)
    found = read_back(tmp_path, windows)
    assert list(found.windows_from(0)) == [0, 3, 4, 9]
    assert all(same(a, b) for a, b in zip(parts_of(found), parts, strict=True))


@pytest.mark.parametrize("vocabulary", [65_536, 65_537])
def test_tokens_of_any_vocabulary_come_back(tmp_path: Path, windows: Windows, vocabulary: int) -> None:
    part = next(parts_of(windows))
    tokens = np.full_like(part.sequences.tokens, vocabulary - 1)
    part = replace(part, sequences=replace(part.sequences, tokens=tokens))
    file = FileOfParts(0, vocabulary)
    file.add(part)
    content, about = file.finish()
    (tmp_path / about.name).write_bytes(content)
    copy = Copy({}, "c", "t", vocabulary, {}, [about])
    found = TokenizedWindows(str(tmp_path), None, copy, windows.manifest, Bytes())
    assert same(next(parts_of(found)), part)


def test_the_files_are_plain_parquet_with_checksums(
    windows: Windows, parts: list[Part], tmp_path: Path
) -> None:
    copy = written(parts, tmp_path, windows.tokenizer, 4)
    for about in copy.files:
        path = tmp_path / about.name
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (about.size, about.sha256)
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        assert table.num_rows == about.parts
    tokens = np.frombuffer(table["tokens"][-1].as_buffer(), np.uint16)
    assert np.array_equal(tokens, parts[-1].sequences.tokens.reshape(-1))


def test_the_same_parts_make_the_same_bytes(windows: Windows, parts: list[Part], tmp_path: Path) -> None:
    assert written(parts, tmp_path / "a", windows.tokenizer, 3) == written(
        parts, tmp_path / "b", windows.tokenizer, 3
    )


# --------------------------------------------------------------------------------------------------- damage


@pytest.mark.slow
def test_no_flipped_bit_is_read_as_something_else(
    windows: Windows, parts: list[Part], tmp_path: Path
) -> None:
    copy = written(parts[:3], tmp_path, windows.tokenizer, 3)
    path = tmp_path / copy.files[0].name
    content = path.read_bytes()
    said = []
    rng = np.random.default_rng(0)
    places = [*range(0, len(content), 101), *range(len(content) - 60, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            again = list(parts_of(read_back(tmp_path, windows)))
        except InputError as error:
            said.append(str(error))
        else:  # e.g. in a page's statistics, which nobody reads
            assert all(same(a, b) for a, b in zip(again, parts[:3], strict=True))
    assert len(said) > 0.95 * len(places)
    assert all(line.startswith(f"{path}: is damaged") for line in said)


def test_a_file_that_is_cut_off_or_gone_is_named(windows: Windows, parts: list[Part], tmp_path: Path) -> None:
    copy = written(parts, tmp_path, windows.tokenizer, 2)
    path = tmp_path / copy.files[1].name
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"{path}: is damaged .it is too short"):
        list(parts_of(read_back(tmp_path, windows)))
    path.unlink()
    with pytest.raises(StorageError, match=str(path)):
        list(parts_of(read_back(tmp_path, windows)))


def test_a_damaged_description_is_refused(windows: Windows, parts: list[Part], tmp_path: Path) -> None:
    written(parts[:2], tmp_path, windows.tokenizer, 2)
    path = tmp_path / FINISHED
    text = path.read_text()
    for damaged in (text.replace('"next": [', '"next": [9,'), text[:-10], "[]", text.replace("512", "513")):
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises(InputError, match=f"{path}: is damaged"):
            read_copy(str(tmp_path), None)
    path.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="is of format 2, not 1"):
        read_copy(str(tmp_path), None)
    path.unlink()
    assert read_copy(str(tmp_path), None) is None
    assert read_copy(str(tmp_path), None, BEGUN) is None


def test_companions_are_checked(tmp_path: Path) -> None:
    data = b"what a run needs"
    (tmp_path / "tokenizer.model").write_bytes(data)
    companions = {"tokenizer.model": (len(data), hashlib.sha256(data).hexdigest())}
    fetch_companions(companions, str(tmp_path), None, tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == data
    (tmp_path / "tokenizer.model").write_bytes(data.replace(b"run", b"fun"))
    with pytest.raises(InputError, match=f"{tmp_path}/tokenizer.model: is not the file that was written"):
        fetch_companions(companions, str(tmp_path), None, tmp_path / "run")


# ------------------------------------------------------------------------------------------------- a bucket


def test_a_copy_in_a_bucket_is_read_by_row_groups(
    s3: S3Server, windows: Windows, parts: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(monkeypatch, s3)
    url, options = f"s3://{s3.bucket}/copies/one", {"endpoint_url": s3.endpoint_url}
    written(parts, url, windows.tokenizer, 3, options)
    found = read_back(url, windows, options)
    again = list(parts_of(found))
    assert all(same(a, b) for a, b in zip(again, parts, strict=True))
    asked = [part.storage["requests"] for part in again]
    assert sum(asked) == len(parts) + len(found.copy.files)  # a row group each, and a footer for each file
