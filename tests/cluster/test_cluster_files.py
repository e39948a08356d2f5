"""What holds of every file in cluster/: no secret, no door open, shell that shellcheck takes, pinned versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "cluster").iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".sh"]

SECRETS = [
    r"AKIA[0-9A-Z]{16}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"(?i)(secret|password|passwd|api_?key|access_?key|auth_token)(_key)?\s*[:=]\s*['\"]?[A-Za-z0-9+/_-]{12,}",
    r"\b[0-9a-f]{32,}\b",
]


def read(name: str) -> str:
    return (ROOT / "cluster" / name).read_text(encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load(read(name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_there_is_no_secret_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = [match.group() for pattern in SECRETS for match in re.finditer(pattern, text)]
    assert not found


@pytest.mark.parametrize(
    "text", ["auth_token: 8f2c6b1e9d4a7053", "AKIAIOSFODNN7EXAMPLE", "secret_key='abcdefabcdef1'"]
)
def test_a_secret_would_be_found(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in SECRETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_listens_for_everybody(path: Path) -> None:
    """But for the dashboard in a container, whose port is published on loopback."""
    text = path.read_text(encoding="utf-8")
    allowed = 1 if path.name == "compose.yaml" else 0
    assert text.count("--dashboard-host=0.0.0.0") == allowed
    assert "RAY_AUTH_MODE=disabled" not in text
    assert not re.search(r"(0\.0\.0\.0|::)/0", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_takes_it(path: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs Debian's shellcheck")
    done = subprocess.run([shellcheck, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_takes_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "cluster" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_and_not_root() -> None:
    lines = read("Dockerfile").splitlines()
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image) for image in images)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] == "1000:1000"  # as a number: Kubernetes cannot tell of a name that it is not root
    assert "RAY_AUTH_MODE=token" in read("Dockerfile")


def test_the_image_gets_what_it_copies_and_no_more() -> None:
    kept = {line[1:] for line in read("Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    copied = {
        source
        for line in read("Dockerfile").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert kept == copied
    assert read("Dockerfile.dockerignore").splitlines()[0] == "*"
    assert all((ROOT / source).exists() for source in copied)


def test_compose_publishes_one_port_on_loopback() -> None:
    services = load("compose.yaml")["services"]
    assert {name: service.get("ports", []) for name, service in services.items()} == {
        "head": ["127.0.0.1:8265:8265"],
        "worker": [],
    }


def test_compose_asks_for_a_token_from_a_file() -> None:
    compose = load("compose.yaml")
    assert compose["secrets"]["ray_auth_token"]["file"].startswith("${RAY_AUTH_TOKEN_PATH:?")
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_auth_token"
        assert service["secrets"] == ["ray_auth_token"]
        assert "RAY_AUTH_TOKEN" not in service["environment"]


def test_compose_gives_its_containers_nothing_more() -> None:
    for service in load("compose.yaml")["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "pid", "ipc"} & set(service)
        assert not service["user"].startswith("0")
        assert set(service["networks"]) <= set(load("compose.yaml")["networks"])


def test_skypilot_takes_the_token_as_a_secret() -> None:
    task = load("skypilot.yaml")
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "RAY_AUTH_TOKEN" not in task["envs"]
    assert task["resources"]["use_spot"] is True
    assert "with-ray.sh" in task["run"]


def test_skypilots_parts_are_shell() -> None:
    for part in ("setup", "run"):
        done = subprocess.run(
            ["bash", "-n"], input=load("skypilot.yaml")[part], text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr


def test_everything_runs_the_version_of_ray_that_is_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    version = re.search(r"^ray==(.+)$", lock, re.MULTILINE)
    assert version
    for name in ("kuberay-raycluster.yaml", "kuberay-rayjob.yaml", "aws.yaml", "gcp.yaml", "azure.yaml"):
        assert version.group(1) in read(name), name


def test_the_readme_names_every_file_and_no_other() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", read("README.md"))
    assert all((ROOT / "cluster" / link).exists() for link in links)
    named = {Path(name).name for name in re.findall(r"[\w./-]+\.(?:yaml|sh)|Dockerfile", read("README.md"))}
    ours = {path.name for path in FILES if path.suffix in (".yaml", ".sh") or path.name == "Dockerfile"}
    assert ours <= named
    assert {name for name in named - ours if not (ROOT / "jobs" / name).exists()} <= {"my-recipe.yaml"}
