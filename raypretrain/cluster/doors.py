"""Ray's ports, tried without a token: what a stranger on the network could do."""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Literal

import grpc
import psutil
import ray
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX
from ray.experimental.internal_kv import _internal_kv_get

from raypretrain.cluster.judge_between import Door
from raypretrain.cluster.nodes import Place
from raypretrain.training.growth import HEAD

_SECONDS = 3.0
State = Literal["open", "closed", "silent"]


def try_doors(places: Sequence[Place]) -> list[Door]:
    """Knock at the dashboard, the GCS and the agents that take jobs, at all their addresses that this machine knows.

    Args:
        places: the nodes whose agents are tried. That of the head is missed where it is not there.
    """
    gcs = ray.get_runtime_context().gcs_address
    node: Any = ray._private.worker._global_node
    found = [_door("GCS", at, _grpc(at)) for at in _addresses(gcs)]
    if node.webui_url:
        found += [_door("dashboard", at, _http(at, "/api/jobs/")) for at in _addresses(node.webui_url)]
    for place in places:
        if at := _agent(place.node):
            found.append(_door("job agent", at, _http(at, "/api/job_agent/jobs/")))
        elif node.webui_url and HEAD in place.resources:
            found.append(Door("job agent", place.name, False, "missing"))
    return found


def _door(what: str, address: str, state: State) -> Door:
    return Door(what, address, _is_loopback(address.rpartition(":")[0]), state)


def _addresses(address: str) -> list[str]:
    """``host:port`` at every address of this machine, if it is this machine's: it may listen at more than it says."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    own = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name == "AF_INET"
    ]
    hosts = sorted({host, *own}, key=_is_loopback) if host in own or _is_loopback(host) else [host]
    return [f"{each}:{port}" for each in hosts]


def _http(address: str, path: str) -> State:
    """What is answered there to somebody without a token."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://{address}{path}", timeout=_SECONDS).close()
    except urllib.error.HTTPError as error:  # 405, of the agent: it would have taken an order
        return "closed" if error.code in (401, 403) else "open"
    except OSError:
        return "silent"
    return "open"


def _grpc(address: str) -> State:
    messages: Any = gcs_service_pb2  # made by protobuf at run time, so that mypy knows nothing of them
    with grpc.insecure_channel(address) as channel:
        stub: Any = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetAllNodeInfo(messages.GetAllNodeInfoRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            refused = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return "closed" if refused else "silent"
    return "open"


def _agent(node: str) -> str | None:
    """``host:port`` of the agent on a node, which starts jobs; None where there is none."""
    key = f"{DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX}{node}".encode()
    said = _internal_kv_get(key, namespace=KV_NAMESPACE_DASHBOARD)
    if not said:
        return None
    host, port, _ = json.loads(said)
    return f"{host}:{port}" if port and int(port) > 0 else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
