"""Bad records in a real run: named, or left out, counted and listed, the same way for any number of workers."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from runs import fingerprints, metrics, run, train_workers, write_recipe

from raypretrain.errors import RaypretrainError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BAD = {
    "shard-0.jsonl": {5: b"{not json}", 10: b'{"text": 7}'},
    "shard-1.jsonl": {11: b'{"text": null}', 12: b'{"other": "key"}'},
    "shard-3.jsonl": {2: b'{"text": "\xff\xfe"}', 9: b"[1, 2]"},
}


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
    return write_recipe(folder, shards, steps=30)


def places(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "corpus" / "quarantine.jsonl").read_text().splitlines()]
    return [row["where"].rpartition("/")[2] for row in rows]


def test_exactly_the_bad_records_are_left_out_and_listed_also_after_a_kill(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    left = [13]

    def kill(event: dict[str, Any]) -> None:
        if left and event.get("step", {}).get("step", 0) >= left[0]:
            left.pop()
            train_workers()[-1].send_signal(signal.SIGKILL)

    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    setting = "corpus.on_bad_input=quarantine"
    assert run(recipe, quiet, setting, "compute.workers=1").status == "finished"
    assert run(recipe, killed, setting, watch=kill).status == "finished"
    assert fingerprints(quiet) == fingerprints(killed)
    listed = {f"{name}:{line}" for name, records in BAD.items() for line in records}
    for folder in (quiet, killed):
        assert sorted(places(folder)) == sorted(listed)
        counts = [row["quarantined"] for row in metrics(folder)]
        assert sum(counts) >= len(listed)  # a record comes again in every epoch
        assert counts == [row["quarantined"] for row in metrics(quiet)]


def test_by_default_the_first_bad_record_ends_the_run_with_its_line(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(RaypretrainError, match=r"shard-\d\.jsonl:\d+: ") as error:
        run(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
