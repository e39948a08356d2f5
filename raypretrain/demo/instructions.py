"""Questions and answers for instruction tuning, out of the documentation of installed packages.

``python -m raypretrain.demo.instructions FILE`` writes them, a JSON line each with ``prompt`` and ``response``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "argparse", "ast", "asyncio", "bisect", "collections", "configparser", "contextlib", "copy", "csv", "datetime",
    "decimal", "difflib", "email", "enum", "fractions", "functools", "glob", "gzip", "heapq", "html", "http.client",
    "inspect", "io", "ipaddress", "itertools", "json", "logging", "math", "os", "os.path", "pathlib", "pickle",
    "random", "re", "shutil", "socket", "sqlite3", "statistics", "string", "subprocess", "tarfile", "tempfile",
    "textwrap", "threading", "time", "traceback", "typing", "unittest", "urllib.parse", "uuid", "zipfile", "zlib",
    "numpy", "numpy.linalg", "numpy.random", "pyarrow", "yaml", "fsspec", "jinja2", "torch.nn.functional",
)  # fmt: skip

LONGEST = 400
"""Characters of an answer."""


def questions() -> Iterator[dict[str, str]]:
    """What each public function and class of :data:`MODULES` does, by the first paragraph of its documentation."""
    seen: set[str] = set()
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for own, thing in sorted(vars(module).items()):
            if own.startswith("_") or not (inspect.isroutine(thing) or inspect.isclass(thing)):
                continue
            answer = first_paragraph(thing)
            if answer and answer not in seen:
                seen.add(answer)
                yield {"prompt": f"What does {name}.{own} do?", "response": answer}


def first_paragraph(thing: object) -> str:
    """Of its documentation, on one line; empty where there is none that says something."""
    text = inspect.getdoc(thing) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    # Functions in C begin with their signature.
    said = [part for part in paragraphs if " " in part and "(" not in part.split(" ")[0]]
    return said[0] if said and len(said[0]) <= LONGEST else ""


def main() -> None:
    """Write them to the file that is named."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m raypretrain.demo.instructions FILE")
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(questions())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows):,} questions and answers: {path}")


if __name__ == "__main__":
    main()
