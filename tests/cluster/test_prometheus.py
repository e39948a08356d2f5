"""A real Prometheus scrapes a real head, on which a run trains: every panel and every alert has something to say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from head import head, without_ray
from prometheus_server import DISCOVERY, Query, prometheus
from runs import write_recipe
from test_observe_files import QUERIES, RULES, needs_prometheus

from raypretrain.training.exporting import FIGURES

pytestmark = [pytest.mark.cluster_test, pytest.mark.timeout(400), needs_prometheus]

RUN = "observed"


class Scraped:
    """What Prometheus has of a run that goes on, and how to end that."""

    def __init__(self, query: Query, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.query, self.process, self.folder = query, process, folder

    def wait(self, expression: str, there: bool = True, within: float = 60.0) -> list[dict[str, Any]]:
        """Its result, once there is one (or none any more)."""
        deadline = time.monotonic() + within
        while bool(found := self.query(expression)) != there:
            assert time.monotonic() < deadline, f"{expression}: {found}"
            time.sleep(0.5)
        return found


@pytest.fixture(scope="module")
def scraped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("observed")
    recipe = write_recipe(folder, corpus, steps=100_000)
    with head(RAY_metrics_report_interval_ms="1000") as cluster:
        command = [sys.executable, "-m", "raypretrain.cli", "pretrain", str(recipe)]
        for given in (f"run.folder={folder / RUN}", f"compute.address={cluster.gcs}"):
            command += ["--set", given]
        with (folder / "said.txt").open("w") as said:
            environment = without_ray() | cluster.environment
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            wait_for_an_evaluation(process, folder)
            with prometheus(folder, cluster.folder / DISCOVERY) as query:
                yield Scraped(query, process, folder / RUN)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(100)


def wait_for_an_evaluation(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the run of ``process`` has done its first steps, and measured the held-out loss after them."""
    deadline = time.monotonic() + 150
    log = folder / RUN / "evaluations.jsonl"
    while not log.is_file() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.2)


def test_every_figure_of_the_run_is_there_once(scraped: Scraped) -> None:
    for name in FIGURES:
        [found] = scraped.wait(f'ray_pretrain_{name}{{run="{RUN}"}}')
        assert float(found["value"][1]) >= 0


@pytest.mark.parametrize("expression", QUERIES)
def test_every_panel_has_a_result(scraped: Scraped, expression: str) -> None:
    asked = expression.replace("$run", RUN)
    if "gpu" in expression:
        assert scraped.query(asked) == [] or scraped.query("ray_node_gpus_available > 0")
        asked = asked.replace("ray_node_gpus_utilization", "ray_node_cpu_utilization")
    assert scraped.wait(asked)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_compares_something(scraped: Scraped, rule: dict[str, Any]) -> None:
    assert scraped.query(rule["expr"]) == [] or rule["alert"] == "GoodputLow"
    compared = rule["expr"].replace(" > ", " > bool ").replace(" < ", " < bool ")
    assert compared != rule["expr"]
    [found] = scraped.wait(compared)
    assert found["metric"] == {"run": RUN}


def test_the_figures_are_those_of_the_run_s_files(scraped: Scraped) -> None:
    [found] = scraped.wait("ray_pretrain_step")
    step = int(float(found["value"][1]))
    rows = [json.loads(row) for row in (scraped.folder / "metrics.jsonl").read_text().splitlines()]
    assert 20 <= step <= rows[-1]["step"]
    [loss] = scraped.query("ray_pretrain_loss and ray_pretrain_step")
    assert float(loss["value"][1]) in [pytest.approx(row["loss"]) for row in rows]


def test_those_of_a_run_that_has_ended_are_gone_soon(scraped: Scraped) -> None:
    scraped.process.send_signal(signal.SIGINT)
    scraped.process.wait(100)
    scraped.wait("ray_pretrain_step", there=False)
    # While all that Ray exports is still there; a scrape may take too long once, then nothing is.
    scraped.wait("ray_node_cpu_utilization unless on() ray_pretrain_step")
