"""What lm-eval and Hugging Face's libraries say while they work: little, and each thing once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRUNCATED = "runcat"
"""In the warnings of lm-eval that it cut the beginning off a request."""
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",  # it would warn of texts that lm-eval then cuts to windows
    "HF_HUB_VERBOSITY": "error",  # and this of each try to reach the hub
}
_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


class Notes(logging.Handler):
    """What lm-eval warns of: each thing said once, and the requests counted that it cut."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.truncated = 0
        self._say, self._said = say, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if _TRUNCATED in text:
            self.truncated += 1
        elif text not in self._said:
            self._said.add(text)
            self._say(f"lm-eval: {text}")


@contextmanager
def noticed(say: Callable[[str], None], offline: bool) -> Iterator[Notes]:
    """Have lm-eval's warnings said, and the others say little; to be entered before they are imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    for name, value in (_QUIET if sys.stderr.isatty() else _QUIET | _NO_BARS).items():
        os.environ.setdefault(name, value)
    logger, notes = logging.getLogger("lm_eval"), Notes(say)
    propagate = logger.propagate
    logger.addHandler(notes)
    logger.propagate = False
    try:
        yield notes
    finally:
        logger.removeHandler(notes)
        logger.propagate = propagate


def first_line(error: BaseException) -> str:
    """What went wrong in a library, in a line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
