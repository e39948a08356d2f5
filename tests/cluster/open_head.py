"""A head that asks for no token, at an address that is not loopback; to be run in a network namespace of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from clients import Client
from head import head

ADDRESS = "192.0.2.7"


def _relay(server: socket.socket, port: int) -> None:
    """Pass on whatever is said to ``server`` to a port of loopback, and back."""

    def pass_on(one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)

    while True:
        near, _ = server.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for ends in ((near, far), (far, near)):
            threading.Thread(target=pass_on, args=ends, daemon=True).start()


def main(recipe: str) -> None:
    """Submit to it, also with --insecure, and print what came of it."""
    for command in ("ip link set lo up", f"ip addr add {ADDRESS}/32 dev lo"):
        subprocess.run(command.split(), check=True)
    with (
        head(token=False, RAY_NODE_TYPE_NAME="head-type") as found,
        socket.create_server((ADDRESS, 0)) as server,
    ):
        port = urlsplit(found.address).port
        assert port
        threading.Thread(target=_relay, args=[server, port], daemon=True).start()
        client = Client(found, Path(recipe).parent)
        address = f"http://{ADDRESS}:{server.getsockname()[1]}"
        print("refused:", client.fails("submit", recipe, "--dry-run", "--address", address))
        status, out, _ = client.run("submit", recipe, "--dry-run", "--address", address, "--insecure")
        print("insecure:", status, out.splitlines()[0])
        status, out, _ = client.run("submit", recipe, "--dry-run")
        print("loopback:", status, out.splitlines()[0])
        gpus = "compute={device: cuda, workers: 2}"
        status, out, _ = client.run("submit", recipe, "--dry-run", "--set", gpus)
        print("of a node type:", status, out.splitlines()[0])


if __name__ == "__main__":
    main(sys.argv[1])
