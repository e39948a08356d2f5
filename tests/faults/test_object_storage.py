"""Row 13: a real run from an object store that refuses, is slow, resets and cuts short."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_proxy import Rules, fault_proxy
from fault_table import Account
from runs import fingerprints, metrics, run
from s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

STEPS = 8


@pytest.mark.row(13, "object storage fails in a run")
def test_a_run_from_a_store_that_fails_has_the_same_batches_and_counts_what_failed(
    undisturbed: Path, tiny_recipe: Path, corpus: Path, s3: S3Server, tmp_path: Path, account: Account
) -> None:
    for shard in sorted(corpus.iterdir()):
        s3.put(f"failing/{shard.name}", shard.read_bytes())
    rules = Rules(latency=0.02, bandwidth=20e6, busy=0.3, reset=0.05, cut=0.1, seed=2)
    folder = tmp_path / "run"
    with fault_proxy(s3.endpoint_url, rules) as proxy:
        where = [
            "corpus.sources.0.path=s3://corpus/failing/*.jsonl",
            f"corpus.sources.0.endpoint_url={proxy.endpoint_url}",
        ]
        assert run(tiny_recipe, folder, *where, f"training.steps={STEPS}").status == "finished"
        seen = proxy.seen
    counted = {
        name: sum(row.get("storage", {}).get(name, 0) for row in metrics(folder))
        for name in ("requests", "retries")
    }
    account(how="a proxy: 30 % 503, 5 % resets, 10 % cut, slow", exact=False)
    account(lost=f"{seen['busy']} + {seen['reset']} + {seen['cut']} of {seen['requests']} requests failed")
    assert min(seen["busy"], seen["reset"] + seen["cut"]) > 0
    # The driver's own requests, for the listing and the tokenizer, are in no step.
    assert 0 < counted["retries"] <= seen["busy"] + seen["reset"] + seen["cut"]
    assert 0 < counted["requests"] <= seen["requests"]
    expected = fingerprints(undisturbed)
    assert fingerprints(folder) == {step: expected[step] for step in range(1, STEPS + 1)}
    account(exact=True)
