"""What is looked at before a job is sent: whether the cluster may be trusted with it, and can carry it out."""

from __future__ import annotations

import glob
import platform
import socket
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

from raypretrain.cluster.address import asks_for_token, is_loopback
from raypretrain.cluster.inventory import Inventory
from raypretrain.cluster.payload import Payload, paths_of
from raypretrain.errors import ClusterError, RecipeError
from raypretrain.training.recipe import PretrainRecipe

_ON_EACH_NODE = {"training.checkpoint.fast.folder"}
"""Paths that every node has of its own."""

_NETWORK_DISKS = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.", "glusterfs", "gpfs", "lustre", "nfs", "smb", "weka",
)  # fmt: skip


def refuse_open(address: str) -> None:
    """Refuse to send anything to who lets everybody in, unless it is this machine or the end of a tunnel.

    Raises:
        ClusterError: whoever reaches the address may run anything on the cluster, and read what is sent.
    """
    if not is_loopback(address) and not asks_for_token(address):
        raise ClusterError(
            "asks for no token: whoever reaches it can run anything there",
            where=address,
            fix="start its head with RAY_AUTH_MODE=token, reach it by a tunnel, or say --insecure",
        )


def check_versions(ray: str, python: str) -> list[str]:
    """Refuse another Ray; of another Python there is a note, since nothing of this machine's runs there.

    A recipe is checked by this machine's raypretrain, which belongs to one version of Ray. With another one there, it
    may mean something else.

    Raises:
        ClusterError: names both versions.
    """
    here = version("ray")
    if ray != here:
        raise ClusterError(
            f"the cluster has Ray {ray}, this machine {here}",
            fix=f"install ray=={ray} and the raypretrain that belongs to it here, or {here} there",
        )
    if python != platform.python_version():
        return [f"the cluster has Python {python}, this machine {platform.python_version()}"]
    return []


def refuse_gpus(payload: Payload, found: Inventory) -> None:
    """Refuse a run that needs GPUs which will never be there: no node has them, and none come by themselves.

    What a cluster may grow to, only its head knows: there the run looks again.

    Raises:
        ClusterError: with what there is.
    """
    recipe = payload.recipe
    if isinstance(recipe, PretrainRecipe):
        given = recipe.compute.workers
        least = given[0] if isinstance(given, tuple) else given or 1
        needs, key = float(least if recipe.compute.device == "cuda" else 0), "compute.workers"
        has, on_one = found.total("GPU"), ""
    else:
        needs, key = recipe.compute.gpus_per_trial, "compute.gpus_per_trial"
        has, on_one = found.largest("GPU"), " on its largest node"
        if recipe.compute.workers_per_trial > 1:  # which may be on several
            has, on_one = found.total("GPU"), ""
    if needs > has and not found.groups:
        raise ClusterError(
            f"needs {needs:g} GPUs, the cluster has {has:g}{on_one}, and no node comes by itself",
            where=key,
            fix="ask for fewer, or start nodes that have them",
        )


def refuse_local_paths(payload: Payload, recipe: Path, found: Inventory) -> None:
    """Refuse paths of this machine in a job for others: the cluster's nodes would not find them.

    A path is this machine's if it lies below the recipe, the current or the home folder, or is there, and is on no
    network disk.

    Raises:
        RecipeError: names the first key with such a path.
    """
    if found.hosts == {socket.gethostname()}:
        return
    mounts = [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    ours = [recipe.resolve().parent, Path.cwd(), Path.home()]
    for key, path in paths_of(payload.recipe):
        if "://" in path or key in _ON_EACH_NODE or on_network_disk(path, mounts):
            continue
        if any(Path(path).is_relative_to(one) for one in ours) or next(glob.iglob(path), None):
            raise RecipeError(
                f"'{path}' is a path of this machine, and the cluster runs on {_some(found.hosts)}",
                where=key,
                fix="give one that all its nodes see, or a URL; if they see this one, say --same-paths",
            )


def on_network_disk(path: str, mounts: Iterable[tuple[str, str]]) -> bool:
    """Whether ``path`` is on a disk that others may see too, going by where what is mounted here.

    Args:
        mounts: folder and type of each mounted file system.
    """
    above = [(len(folder), kind) for folder, kind in mounts if Path(path).is_relative_to(folder)]
    return max(above, default=(0, ""))[1].startswith(_NETWORK_DISKS)


def _some(hosts: frozenset[str]) -> str:
    first = ", ".join(sorted(hosts)[:3])
    return f"{first} and {len(hosts) - 3} more" if len(hosts) > 3 else first or "other machines"
