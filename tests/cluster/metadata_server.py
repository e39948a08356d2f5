"""A cloud's metadata service as a machine sees it: says that the machine is reclaimed from when a file is there.

python metadata_server.py PORT FILE
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

TOKEN = "of-a-session"
FILE = Path(sys.argv[2])


class Metadata(BaseHTTPRequestHandler):
    """AWS's with sessions, Google's and Azure's; each refuses who does not ask as it wants to be asked."""

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if known else 403, TOKEN)

    def do_GET(self) -> None:
        reclaimed = FILE.exists()
        if self.path == "/latest/meta-data/spot/instance-action":
            known = self.headers["X-aws-ec2-metadata-token"] == TOKEN
            self._answer((200 if reclaimed else 404) if known else 401, '{"action": "terminate"}')
        elif self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers["Metadata-Flavor"] == "Google"
            self._answer(200 if known else 403, "TRUE" if reclaimed else "FALSE")
        elif self.path.startswith("/metadata/scheduledevents?api-version="):
            known = self.headers["Metadata"] == "true"
            events = '{"Events": [{"EventType": "Preempt"}]}' if reclaimed else '{"Events": []}'
            self._answer(200 if known else 400, events)
        else:
            self._answer(404, "")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Metadata).serve_forever()
