"""Bad records in a real run: named, or left out, counted and listed, the same way for any number of workers.

Rows 14 and 17.
"""

from __future__ import annotations

import gzip
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fault_table import Account
from runs import fingerprints, metrics, run, train_workers, write_recipe

from raypretrain.errors import RaypretrainError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BAD = {
    "shard-0.jsonl": {5: b"{not json}", 10: b'{"text": 7}'},
    "shard-1.jsonl": {11: b'{"text": null}', 12: b'{"other": "key"}'},
    "shard-3.jsonl": {2: b'{"text": "\xff\xfe"}', 9: b"[1, 2]"},
}

CUT = ("shard-4.jsonl.gz", "shard-5.jsonl.zst", "shard-6.parquet")


def cut_short(shards: Path) -> None:
    """Put a file of each compressed kind beside the others, and take its end away."""
    lines = (shards / "shard-2.jsonl").read_bytes()
    (shards / CUT[0]).write_bytes(gzip.compress(lines)[:-300])
    (shards / CUT[1]).write_bytes(zstandard.ZstdCompressor().compress(lines)[:-300])
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    pq.write_table(pa.table({"text": texts}), shards / CUT[2])
    (shards / CUT[2]).write_bytes((shards / CUT[2]).read_bytes()[:-50])


@pytest.fixture(scope="module")
def recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    shards = Path(shutil.copytree(corpus, folder / "shards"))
    for shard in shards.iterdir():  # few enough that all of it is read
        lines = shard.read_bytes().split(b"\n")
        shard.write_bytes(b"\n".join(lines[:12]))
    for name, records in BAD.items():
        lines = (shards / name).read_bytes().split(b"\n")
        for number, record in records.items():
            lines.insert(number - 1, record)
        (shards / name).write_bytes(b"\n".join(lines))
    cut_short(shards)
    return write_recipe(folder, shards, steps=48)


def places(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "corpus" / "quarantine.jsonl").read_text().splitlines()]
    return [row["where"].rpartition("/")[2] for row in rows]


@pytest.mark.row(14, "truncated files in a run that leaves them out")
@pytest.mark.row(17, "text that is none in a run that leaves it out")
@pytest.mark.long
def test_exactly_the_bad_records_are_left_out_and_listed_also_after_a_kill(
    cluster: str, recipe: Path, tmp_path: Path, account: Account
) -> None:
    left = [13]

    def kill(event: dict[str, Any]) -> None:
        if left and event.get("step", {}).get("step", 0) >= left[0]:
            left.pop()
            train_workers()[-1].send_signal(signal.SIGKILL)

    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    settings = ["corpus.on_bad_input=quarantine", f"corpus.sources.0.path={recipe.parent / 'shards'}"]
    assert run(recipe, quiet, *settings, "compute.workers=1").status == "finished"
    assert run(recipe, killed, *settings, watch=kill).status == "finished"
    listed = {f"{name}:{line}" for name, records in BAD.items() for line in records} | set(CUT)
    account(
        how="6 bad lines; gz, zst and Parquet cut short", exact=fingerprints(quiet) == fingerprints(killed)
    )
    account(lost=f"{len(listed)} records, the same with 1 worker and with 2 of which one is killed")
    assert fingerprints(quiet) == fingerprints(killed)
    for folder in (quiet, killed):
        assert sorted(places(folder)) == sorted(listed)
        counts = [row["quarantined"] for row in metrics(folder)]
        assert sum(counts) >= len(listed)  # a record comes again in every epoch
        assert counts == [row["quarantined"] for row in metrics(quiet)]


@pytest.mark.row(17, "text that is none in a run that ends with it")
def test_by_default_the_first_bad_record_ends_the_run_with_its_line(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(RaypretrainError, match=r"shard-\d\.jsonl:\d+: ") as error:
        run(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
