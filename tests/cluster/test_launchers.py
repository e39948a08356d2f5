"""The files for Ray's cluster launcher: what Ray itself says of them, and what a user's bill and door hang on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLOUDS = ["aws", "gcp", "azure"]


@pytest.fixture(params=CLOUDS)
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A launcher's file with Ray's defaults filled in, as ``ray up`` reads it in the repository's root."""
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.chdir(ROOT)
    return prepare_config(read(request.param))


def read(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / f"{cloud}.yaml").read_text(encoding="utf-8"))


def is_spot(node_config: dict[str, Any]) -> bool:
    machine = node_config.get("azure_arm_parameters", node_config)
    return (
        machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or machine.get("scheduling", {}).get("provisioningModel") == "SPOT"
        or machine.get("priority") == "Spot"
    )


def test_ray_takes_it(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(launcher)


def test_the_head_has_no_gpu_and_stays(launcher: dict[str, Any]) -> None:
    head = launcher["available_node_types"][launcher["head_node_type"]]
    assert head["resources"] == {"CPU": 0}  # and runs nothing that could starve the drivers
    assert not is_spot(head["node_config"])


def test_gpus_come_on_demand_first_and_then_on_spot(launcher: dict[str, Any]) -> None:
    floor, spot = (launcher["available_node_types"][f"gpu_{kind}"] for kind in ("on_demand", "spot"))
    assert floor["resources"] == spot["resources"]
    assert floor["resources"]["GPU"] > 0
    assert floor["priority"] > spot["priority"]
    assert (is_spot(floor["node_config"]), is_spot(spot["node_config"])) == (False, True)
    assert floor["max_workers"] >= 1
    assert spot["max_workers"] > floor["max_workers"]


def test_the_stream_has_a_pool_of_its_own(launcher: dict[str, Any]) -> None:
    pool = launcher["available_node_types"]["cpu"]
    assert "GPU" not in pool["resources"]
    assert pool["max_workers"] > 0


def test_nothing_is_paid_for_when_nothing_runs(launcher: dict[str, Any]) -> None:
    workers = {n: t for n, t in launcher["available_node_types"].items() if n != launcher["head_node_type"]}
    assert all(node_type["min_workers"] == 0 for node_type in workers.values())
    assert launcher["max_workers"] == sum(node_type["max_workers"] for node_type in workers.values())
    assert 0 < launcher["idle_timeout_minutes"] <= 10
    assert launcher["provider"]["cache_stopped_nodes"] is False


def test_every_ray_asks_for_the_token(launcher: dict[str, Any]) -> None:
    for commands in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0].split("ray start")[0]
        assert "RAY_enable_autoscaler_v2=1" in starts[0].split("ray start")[0]
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_is_on_loopback(launcher: dict[str, Any]) -> None:
    head = " ".join(launcher["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "RAY_JOB_STOP_WAIT_TIME_S=600" in head.split("ray start")[0]


def test_all_clouds_start_ray_alike() -> None:
    """So that a test of one of them is a test of all."""
    heads = [read(cloud)["head_start_ray_commands"] for cloud in CLOUDS]
    assert heads == [heads[0]] * len(CLOUDS)
    workers = [read(cloud)["worker_start_ray_commands"] for cloud in CLOUDS]
    assert [command[:-1] for command in workers] == [workers[0][:-1]] * len(CLOUDS)
    for cloud, commands in zip(CLOUDS, workers, strict=True):
        assert f"watch-spot.sh {cloud} " in commands[-1]


def test_what_is_copied_to_the_nodes_is_there(launcher: dict[str, Any]) -> None:
    ours = {local for local in launcher["file_mounts"].values() if not local.startswith("~")}
    assert ours == {
        "raypretrain",
        "cluster",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
    }
    assert all((ROOT / local).exists() for local in ours)


def test_aws_takes_the_machines() -> None:
    """By the service's own model of a request, which botocore carries."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    for name, node_type in read("aws")["available_node_types"].items():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, model.input_shape).has_errors(), name
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_aws_opens_one_port_to_one_address() -> None:
    rules = read("aws")["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpRanges"]) for rule in rules] == [
        (22, 22, [{"CidrIp": "YOUR_ADDRESS/32"}])
    ]


def test_azure_takes_the_machines() -> None:
    """By the template that Ray's launcher deploys."""
    import ray.autoscaler._private as launcher

    template = json.loads((Path(launcher.__path__[0]) / "_azure/azure-vm-template.json").read_text())
    for name, node_type in read("azure")["available_node_types"].items():
        unknown = set(node_type["node_config"]["azure_arm_parameters"]) - set(template["parameters"])
        assert not unknown, name


def test_buckets_are_reached_by_a_role() -> None:
    aws = read("aws")["available_node_types"]
    assert {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in aws.items()} == {
        name: "raypretrain-head" if name == "head" else "raypretrain-worker" for name in aws
    }
    for name, node_type in read("gcp")["available_node_types"].items():
        accounts = node_type["node_config"].get("serviceAccounts", [])
        assert [account["email"].split("@")[0] for account in accounts] == (
            [] if name == "head" else ["raypretrain-worker"]  # the head's is the launcher's
        )
    assert read("azure")["provider"]["msi_name"] == "raypretrain"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_to_be_replaced_is_said_at_the_top(cloud: str) -> None:
    text = (ROOT / "cluster" / f"{cloud}.yaml").read_text(encoding="utf-8")
    top, _, rest = text.partition("cluster_name:")
    settings = "\n".join(line for line in rest.splitlines() if not line.lstrip().startswith("#"))
    words = set(re.findall(r"YOUR_[A-Z_]+", settings))
    assert words
    assert words == {line.split()[1] for line in top.splitlines() if line.startswith("#   YOUR_")}
