"""The manifests for KubeRay, against the operator's own schemas and Kubernetes', and what is to hold of every pod."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(os.environ.get("RAYPRETRAIN_KUBERAY") or ROOT.parent / "shared" / "kuberay")
needs_schemas = pytest.mark.skipif(
    not (SCHEMAS / "ray.io_rayclusters.yaml").exists(),
    reason="KubeRay's schemas are not here: set RAYPRETRAIN_KUBERAY to the folder of ray.io_rayclusters.yaml",
)


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a manifest, by kind."""
    text = (ROOT / "cluster" / f"kuberay-{name}.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def cluster_spec(kind: str) -> dict[str, Any]:
    if kind == "RayCluster":
        return documents("raycluster")["RayCluster"]["spec"]
    return documents("rayjob")["RayJob"]["spec"]["rayClusterSpec"]


def templates(kind: str) -> dict[str, dict[str, Any]]:
    """The pod templates: of the head, of each group of workers, and of what submits a RayJob."""
    spec = cluster_spec(kind)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    if kind == "RayJob":
        found["submitter"] = documents("rayjob")["RayJob"]["spec"]["submitterPodTemplate"]
    return found


both = pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])


def strict(schema: Any) -> Any:
    """The schema, refusing what it does not name: the API server would drop it silently."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return found


def schema_of(kind: str) -> dict[str, Any]:
    text = (SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    schema = next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    found = strict(schema)
    found["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return found


@needs_schemas
@both
def test_the_operator_takes_it(kind: str) -> None:
    jsonschema.validate(documents(kind.lower())[kind], schema_of(kind))


@needs_schemas
def test_the_operator_would_not_take_another_word() -> None:
    manifest = documents("raycluster")["RayCluster"]
    manifest["spec"]["authOption"] = manifest["spec"].pop("authOptions")
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(manifest, schema_of("RayCluster"))


@pytest.mark.parametrize("name", ["base", "rayjob"])
def test_kubernetes_takes_the_rest(name: str) -> None:
    core = [document for kind, document in documents(name).items() if not kind.startswith("Ray")]
    assert core
    for document in core:
        kubernetes_validate.validate(document, "1.33", strict=True)


@both
def test_kubernetes_takes_the_pods(kind: str) -> None:
    for name, template in templates(kind).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


@both
def test_a_token_is_asked_for(kind: str) -> None:
    assert cluster_spec(kind)["authOptions"] == {"mode": "token"}


@both
def test_it_grows_and_shrinks(kind: str) -> None:
    spec = cluster_spec(kind)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert 0 < spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    for group in spec["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["maxReplicas"] > 0


@both
def test_gpus_are_of_one_group_alone(kind: str) -> None:
    limits = {
        name: template["spec"]["containers"][0]["resources"]["limits"]
        for name, template in templates(kind).items()
    }
    assert {name for name, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu"}
    assert {"head", "gpu", "cpu"} <= set(limits)
    assert cluster_spec(kind)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@both
def test_no_pod_is_root_or_can_become_it(kind: str) -> None:
    containers = [
        (template["spec"]["securityContext"], container)
        for template in templates(kind).values()
        for container in template["spec"]["containers"]
    ]
    for pod, container in containers:
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@both
def test_images_are_pinned(kind: str) -> None:
    for template in templates(kind).values():
        for container in template["spec"]["containers"]:
            tag = container["image"].rpartition(":")[2]
            assert tag.startswith("0.1.0-"), container["image"]


@both
def test_workers_save_before_they_go(kind: str) -> None:
    for name in ("gpu", "cpu"):
        spec = templates(kind)[name]["spec"]
        *command, seconds = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["bash", "/opt/raypretrain/leave.sh"]
        assert int(seconds) < spec["terminationGracePeriodSeconds"]
        assert spec["restartPolicy"] == "Never"


@both
def test_shared_memory_holds_the_object_store(kind: str) -> None:
    """Ray takes 30 % of a pod's memory for it; in a smaller /dev/shm it would go to the disk."""
    for name, template in templates(kind).items():
        if name == "submitter":
            continue
        shm = next(v for v in template["spec"]["volumes"] if v["name"] == "shm")["emptyDir"]
        mounts = {m["name"]: m["mountPath"] for m in template["spec"]["containers"][0]["volumeMounts"]}
        memory = template["spec"]["containers"][0]["resources"]["limits"]["memory"]
        assert mounts["shm"] == "/dev/shm"
        assert shm["medium"] == "Memory"
        assert 0.3 * int(memory.removesuffix("Gi")) <= int(shm["sizeLimit"].removesuffix("Gi"))


@both
def test_buckets_are_reached_by_the_account(kind: str) -> None:
    account = documents("base")["ServiceAccount"]
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    for name in ("head", "gpu", "cpu"):
        assert templates(kind)[name]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    for name in ("gpu", "cpu"):  # the head's autoscaler talks to Kubernetes, nobody else does
        assert templates(kind)[name]["spec"]["automountServiceAccountToken"] is False


@both
def test_the_policies_are_of_these_pods(kind: str) -> None:
    base = documents("base")
    label = base["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert base["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    budget = base["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == {**label, "ray.io/node-type": "head"}
    assert all(label.items() <= t["metadata"]["labels"].items() for t in templates(kind).values())


def test_both_manifests_ask_for_the_same_cluster() -> None:
    """But for the recipe, which the head of a RayJob reads from a ConfigMap."""
    plain, job = cluster_spec("RayCluster"), cluster_spec("RayJob")
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "recipe"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "recipe"]
    assert job == plain


def test_the_recipe_in_the_manifest_is_one(tmp_path: Path) -> None:
    from raypretrain.config import load_recipe
    from raypretrain.training.recipe import PretrainRecipe

    path = tmp_path / "recipe.yaml"
    path.write_text(documents("rayjob")["ConfigMap"]["data"]["recipe.yaml"], encoding="utf-8")
    recipe = load_recipe(path, PretrainRecipe, [])
    assert recipe.compute.workers == 16
    assert str(recipe.run.folder).startswith("/mnt/runs/")
    job = documents("rayjob")["RayJob"]["spec"]
    assert job["entrypoint"] == "raypretrain pretrain /etc/raypretrain/recipe.yaml"
    assert job["shutdownAfterJobFinishes"] is True
