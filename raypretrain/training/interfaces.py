"""Over which network interface workers talk to each other: the one by whose address Ray knows their host.

gloo takes what the host's own name leads to. That is the loopback on many hosts (Debian writes ``127.0.1.1`` for it
into ``/etc/hosts``), and then workers on other hosts knock at their own doors. NCCL leaves the loopback out by itself.
"""

from __future__ import annotations

import os

import psutil

GLOO = "GLOO_SOCKET_IFNAME"


def talk_over(address: str) -> None:
    """Have gloo, in this process, talk over the interface with this address, unless the environment says otherwise."""
    if (name := interface_of(address)) is not None:
        os.environ.setdefault(GLOO, name)


def interface_of(address: str) -> str | None:
    """The name of the interface that has this address; None where none has, as behind a translation of addresses."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, owned in interfaces if any(one.address == address for one in owned)), None)
