"""The command line in this process, for the tests of what it says."""

from __future__ import annotations

import re
import sys

import pytest

from raypretrain import cli

RECIPE = """\
corpus:
  sources:
    - path: {data}/*.jsonl
run: {{folder: run}}
tokenizer: {{vocabulary: 400}}
sequences: {{length: 64, window: 100K}}
model: {{preset: llama-1m, width: 32, layers: 1, heads: 2, feed_forward: 64}}
training: {{steps: 5, global_batch: 12}}
compute: {{device: cpu}}
"""
PROGRESS = re.compile(r" *\d+\.\d s  ")


class Command:
    """``raypretrain …`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Its status, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", ["raypretrain", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, error = self._capsys.readouterr()
        return int(caught.value.code or 0), out, error

    def fails(self, *arguments: object) -> str:
        """The one line that it fails with; beside it there may be lines of progress."""
        status, out, error = self.run(*arguments)
        lines = [line for line in error.splitlines() if not PROGRESS.match(line)]
        assert (status, out, len(lines)) == (2, "", 1), error
        assert lines[0].startswith("raypretrain: ")
        assert "Traceback" not in error
        assert error.splitlines()[-1] == lines[0]
        return lines[0].removeprefix("raypretrain: ")
