"""What is shown are the words of others: no bracket in them is markup, and none ends a run."""

from __future__ import annotations

import pytest

from raypretrain.console import PretrainView

ERROR = "[/__w/gloo/pair.cc:537] Read error [127.0.0.1]:18124: [bold]reset[/bold] by peer"


def test_an_error_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with PretrainView() as view:
        view.watch({"say": f"worker 0 failed: {ERROR}"})
    assert capsys.readouterr().err.endswith(f" s  worker 0 failed: {ERROR}\n")
