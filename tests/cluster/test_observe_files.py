"""What we ship for Prometheus and Grafana: sound, and about figures that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import OBSERVE, there
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from raypretrain.training.exporting import FIGURES, PREFIX

DASHBOARD: dict[str, Any] = json.loads((OBSERVE / "grafana-dashboard.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"][0]["rules"]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPORTED = {f"ray_{PREFIX}{name}" for name in FIGURES} | {f"ray_{name}" for name in METRICS_GAUGES}

needs_prometheus = pytest.mark.skipif(not there(), reason="Debian's package 'prometheus' is not installed")


@pytest.mark.parametrize("expression", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_every_metric_is_one_that_we_or_ray_export(expression: str) -> None:
    names = set(re.findall(r"\bray_\w+", expression))
    assert names
    assert names <= EXPORTED


def test_every_figure_but_the_steps_and_their_age_has_a_panel_and_every_age_an_alert() -> None:
    shown = {name for name in FIGURES if any(f"ray_{PREFIX}{name}" in query for query in QUERIES)}
    assert FIGURES.keys() - shown == {"step", "step_age_seconds"}
    alarmed = " ".join(rule["expr"] for rule in RULES)
    assert all(f"ray_{PREFIX}{name}" in alarmed for name in FIGURES if name.endswith("_age_seconds"))


def test_the_dashboard_asks_which_data_source_and_which_runs() -> None:
    source, run = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (run["name"], run["multi"], run["includeAll"]) == ("run", True, True)
    assert re.fullmatch(r"label_values\((\w+), run\)", run["definition"])[1] in EXPORTED  # type: ignore[index]
    everywhere = [panel["datasource"] for panel in DASHBOARD["panels"]]
    everywhere += [target["datasource"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert all(each["uid"] == "${datasource}" for each in [*everywhere, run["datasource"]])
    assert all('{run=~"$run"}' in query for query in QUERIES if PREFIX in query)


def test_its_panels_do_not_overlap() -> None:
    taken = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@needs_prometheus
@pytest.mark.parametrize(("what", "file"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_finds_nothing_wrong(what: str, file: str) -> None:
    done = subprocess.run(["promtool", "check", what, OBSERVE / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SERIES = {
    "NoStep": ("step_age_seconds", "800 850 900 950 1000"),
    "CheckpointTooOld": ("checkpoint_age_seconds", "3500 3560 3620 3680 3740"),
    "RestartsTooOften": ("restarts", "1 1 3 4 5"),
    "GoodputLow": ("goodput", "0.9 " + "0.7 " * 64),
}
"""A figure a minute: the alert is quiet at first, and fires at the end."""


@needs_prometheus
@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_an_alert_fires_when_it_is_time_and_not_before(alert: str, tmp_path: Path) -> None:
    figure, values = SERIES[alert]
    last = len(values.split()) - 1
    fires = {"exp_labels": {"run": "small", "severity": "critical" if alert == "NoStep" else "warning"}}
    checks = [
        {"eval_time": "1m", "alertname": alert, "exp_alerts": []},
        {"eval_time": f"{last}m", "alertname": alert, "exp_alerts": [fires]},
    ]
    series = [{"series": f'ray_{PREFIX}{figure}{{run="small", WorkerId="b"}}', "values": values}]
    tests = {
        "rule_files": [str(OBSERVE / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": checks}],
    }
    for check in checks[1:]:
        check["exp_alerts"][0]["exp_annotations"] = annotations(alert, values.split()[-1])  # type: ignore[index]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def annotations(alert: str, value: str) -> dict[str, str]:
    """Those of the rule, for a person."""
    said = {
        "NoStep": "small has done no step for 16m 40s",
        "CheckpointTooOld": "small has saved nothing for 1h 2m 20s",
        "RestartsTooOften": "small was restarted 4 times within an hour",
        "GoodputLow": "small computes for 70% of its wall time",
    }
    [rule] = [rule for rule in RULES if rule["alert"] == alert]
    return {**rule["annotations"], "summary": said[alert]}
