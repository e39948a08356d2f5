"""The commands with which the launchers start Ray, word for word, on two hosts of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hosts import Host, network, why_not

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-this-test"
AGENTS = "52365"  # of Ray's on each node, which start jobs: with a token

reason = why_not()
pytestmark = [pytest.mark.cluster_test, pytest.mark.skipif(bool(reason), reason=reason)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """A head and a worker, started as on AWS; test_launchers.py says that the other clouds' commands are the same."""
    launcher = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text(encoding="utf-8"))
    with network() as net:
        head, worker = net.add("head"), net.add("worker")
        for host in (head, worker):
            prepare(host)
        run(head, start_command(launcher["head_start_ray_commands"]))
        run(worker, start_command(launcher["worker_start_ray_commands"]), RAY_HEAD_IP=head.address)
        yield head, worker


def prepare(host: Host) -> None:
    """A home with the token's file and an environment, as the launcher leaves it; nothing of Ray in the environment."""
    for name in [name for name in host.environment if name.startswith("RAY_")]:
        del host.environment[name]
    (host.folder / ".ray").mkdir()
    (host.folder / ".ray" / "auth_token").write_text(TOKEN)
    (host.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (host.folder / "ray").mkdir()
    host.environment |= {"HOME": str(host.folder), "RAY_TMPDIR": str(host.folder)}
    run(host, "ip route add default dev eth0")  # by which Ray finds the host's address


def start_command(commands: list[str]) -> str:
    """The one that starts Ray, without what would start machines."""
    (command,) = [command for command in commands if "ray start" in command]
    return command.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")


def run(host: Host, command: str, **environment: str) -> str:
    process = host.start("bash", "-c", command, **environment)
    out, error = process.communicate(timeout=90)
    assert process.returncode == 0, out + error
    return out


def ask(host: Host, address: str, *headers: str) -> str:
    """The status of a GET there; 000 if nothing answers."""
    options = "".join(f" -H '{header}'" for header in headers)
    return run(host, f"curl -s -o /dev/null -w '%{{http_code}}' -m 10{options} http://{address} || true")


def test_the_dashboard_answers_on_loopback_who_has_the_token(hosts: tuple[Host, Host]) -> None:
    head, worker = hosts
    assert ask(head, "127.0.0.1:8265/api/jobs/") == "401"
    assert ask(head, "127.0.0.1:8265/api/jobs/", "Authorization: Bearer another") == "403"
    assert ask(head, "127.0.0.1:8265/api/jobs/", f"Authorization: Bearer {TOKEN}") == "200"
    assert ask(worker, f"{head.address}:8265/api/jobs/", f"Authorization: Bearer {TOKEN}") == "000"


def test_no_agent_takes_a_job_without_the_token(hosts: tuple[Host, Host]) -> None:
    for asked in hosts:
        assert ask(hosts[1], f"{asked.address}:{AGENTS}/api/job_agent/jobs/") in (
            "401",
            "000",
        )  # or not at all


def test_nobody_joins_without_the_token(hosts: tuple[Host, Host]) -> None:
    head, worker = hosts
    asked = worker.start(
        "bash", "-c", "~/.venv/bin/ray status", RAY_ADDRESS=head.ray_address, RAY_AUTH_MODE="disabled"
    )
    out, error = asked.communicate(timeout=120)
    assert asked.returncode != 0, out
    assert "token" in error.lower()


def test_the_head_runs_nothing_and_gives_jobs_time_to_stop(hosts: tuple[Host, Host]) -> None:
    head, _ = hosts
    script = (
        "import ray; ray.init(address='auto', logging_level='ERROR'); "
        "print({n['NodeManagerAddress']: n['Resources'].get('CPU', 0) for n in ray.nodes()})"
    )
    seen = run(head, f'RAY_AUTH_MODE=token ~/.venv/bin/python -c "{script}"')
    cpus = yaml.safe_load(seen.splitlines()[-1])
    assert cpus.pop(head.address) == 0
    assert list(cpus.values()) == [os.cpu_count()]
    (raylet,) = [process for process in head.processes() if process.name() == "raylet"]
    environment = raylet.environ()
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    assert environment["RAY_enable_autoscaler_v2"] == "1"
    assert "RAY_AUTH_TOKEN" not in environment
    assert TOKEN not in " ".join(" ".join(process.cmdline()) for process in head.processes())
