"""Over which network interface workers talk."""

from __future__ import annotations

import os

import psutil
import pytest

from raypretrain.training.interfaces import GLOO, interface_of, talk_over


def test_every_address_of_this_machine_leads_to_its_interface() -> None:
    assert interface_of("127.0.0.1") == next(
        name for name, owned in psutil.net_if_addrs().items() if "127.0.0.1" in {one.address for one in owned}
    )
    assert interface_of("203.0.113.77") is None  # an address for documents only


def test_gloo_is_told_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO, "theirs")
    talk_over("127.0.0.1")
    assert os.environ[GLOO] == "theirs"
    monkeypatch.delenv(GLOO)
    talk_over("203.0.113.77")
    assert GLOO not in os.environ
    talk_over("127.0.0.1")
    assert os.environ.pop(GLOO) == interface_of("127.0.0.1")
