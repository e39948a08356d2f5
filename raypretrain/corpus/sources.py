"""Where the raw text lies: the ``corpus`` part of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raypretrain.config import Config, Location


class SourceConfig(Config):
    """One source of raw text: files of any of the known formats (``.txt``, ``.jsonl``, ``.parquet``, …)."""

    path: Location
    """A file, a folder, or a glob; local or ``s3://``."""
    name: str | None = None
    """What the source is called in reports; its place in the list where it has none."""
    text: str = Field(default="text", min_length=1)
    """The key of a JSON line, or the column of a Parquet file, that holds the text."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of the mixture, against the weights of the other sources."""
    documents: Literal["file", "line", "block"] = "file"
    """What one document is in a ``.txt`` file: the whole file, a line, or a block between empty lines."""
    endpoint_url: str | None = None
    """The address of an S3-compatible store that is not AWS."""

    @property
    def storage_options(self) -> dict[str, Any] | None:
        """How :mod:`raypretrain.storage` reaches the source."""
        return {"endpoint_url": self.endpoint_url} if self.endpoint_url else None


class CorpusConfig(Config):
    """The corpus: its sources, and how much of it is never trained on."""

    sources: list[SourceConfig] = Field(min_length=1)
    held_out: float = Field(default=0.01, ge=0, lt=0.5)
    """The share of the documents that is held out for evaluation, chosen by a hash of their text."""

    def source_name(self, index: int) -> str:
        """What source ``index`` is called: its name, or ``source-INDEX``."""
        return self.sources[index].name or f"source-{index}"
