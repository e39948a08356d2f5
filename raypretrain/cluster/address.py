"""Where a cluster takes jobs: the address of its dashboard, and whether that asks for a token."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from raypretrain.errors import ClusterError

DEFAULT = "http://127.0.0.1:8265"
"""Where a head on this machine is, or the end of a tunnel to one elsewhere."""

_PORT = 8265
_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_SECONDS = 10.0


def address_of(given: str | None) -> str:
    """The dashboard's URL: ``given``, else what Ray's own tools take from the environment, else this machine's.

    Args:
        given: ``http://HOST:PORT``, ``https://…``, ``HOST:PORT`` or ``HOST``.

    Raises:
        ClusterError: it is none of these.
    """
    name, text = next(
        ((name, os.environ[name]) for name in _ENVIRONMENT if os.environ.get(name) and not given),
        ("--address", given or DEFAULT),
    )
    if text == "auto":
        return DEFAULT
    url = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = url.port
    except ValueError:
        port = 0
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or url.username:
        raise ClusterError(
            f"'{text}' is not the address of a dashboard",
            where=name,
            fix=f"give http://HOST:{_PORT}, of the head or of a tunnel to it",
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    if port is None:
        port = 443 if url.scheme == "https" else _PORT
    return f"{url.scheme}://{host}:{port}{url.path.rstrip('/')}"


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine's own users reaches ``address``."""
    host = urlsplit(address).hostname or ""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def asks_for_token(address: str) -> bool:
    """Whether the dashboard refuses who shows no token: it is asked without one.

    Raises:
        ClusterError: nothing answers, or something that is no dashboard of Ray's.
    """
    fix = "start it, open a tunnel to it, or say with --address where it is"
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=_SECONDS) as reply:
            known = "ray_version" in json.loads(reply.read())
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return True
        raise ClusterError(f"no dashboard of Ray's (HTTP {error.code})", where=address, fix=fix) from None
    except ValueError:  # it says something else than JSON
        known = False
    except OSError as error:
        reason = getattr(error, "reason", error)
        shown = getattr(reason, "strerror", None) or reason
        raise ClusterError(f"no Ray cluster answers ({shown})", where=address, fix=fix) from None
    except Exception as error:  # http.client's, of what speaks no HTTP, e.g. the port of the cluster itself
        raise ClusterError(
            f"no dashboard of Ray's ({type(error).__name__})", where=address, fix=fix
        ) from None
    if not known:
        raise ClusterError("no dashboard of Ray's", where=address, fix=fix)
    return False
