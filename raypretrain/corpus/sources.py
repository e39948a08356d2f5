"""Where the raw text lies: the ``corpus`` part of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Location


class SourceConfig(Config):
    """One source of raw text: files of any of the known formats (``.txt``, ``.jsonl``, ``.parquet``, …)."""

    path: Location
    """A file, a folder, or a glob; local or ``s3://``."""
    name: str | None = None
    """What the source is called in reports; its place in the list where it has none."""
    text: str = Field(default="text", min_length=1)
    """The key of a JSON line, or the column of a table, that holds the text; ``a.b`` is a field within."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of the mixture, against the weights of the other sources."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How often the source may be repeated at most; then the others take its share. Without it: for ever."""
    documents: Literal["file", "line", "block"] = "file"
    """What one document is in a ``.txt`` file: the whole file, a line, or a block between empty lines."""
    format: str | None = Field(default=None, min_length=1)
    """The format of all of its files, if their suffixes do not say it: a name, or ``package.module:ClassName``."""
    clusters: Location | None = None
    """A file of clusters of its sequences (FASTA), of each of which an epoch takes one: REPRESENTATIVE, tab, MEMBER."""
    endpoint_url: str | None = None
    """The address of an S3-compatible store that is not AWS."""

    @property
    def storage_options(self) -> dict[str, Any] | None:
        """How :mod:`raypretrain.storage` reaches the source."""
        return {"endpoint_url": self.endpoint_url} if self.endpoint_url else None


class CorpusConfig(Config):
    """The corpus: its sources, and how much of it is never trained on."""

    sources: list[SourceConfig] = Field(default=[])
    tokenized: Location | None = None
    """A tokenized copy to read in place of the text; the sources then only say what they are called."""
    tokenized_endpoint_url: str | None = None
    """The address of an S3-compatible store that is not AWS, with the copy."""
    held_out: float = Field(default=0.01, ge=0, lt=0.5)
    """The share of the documents that is held out for evaluation, chosen by a hash of their text."""
    on_bad_input: Literal["error", "quarantine"] = "error"
    """Whether a bad record ends the run, or is left out, counted and listed."""
    on_change: Literal["error", "keep"] = "error"
    """If a run goes on and its corpus has other files than at its start: refuse, or keep to those listed then."""

    @model_validator(mode="after")
    def _names_text(self) -> CorpusConfig:
        if not self.sources and self.tokenized is None:
            raise ValueError("names no text: give 'sources', or 'tokenized' for a tokenized copy")
        return self

    @property
    def tokenized_options(self) -> dict[str, Any] | None:
        """How :mod:`raypretrain.storage` reaches the tokenized copy."""
        return {"endpoint_url": self.tokenized_endpoint_url} if self.tokenized_endpoint_url else None

    def source_name(self, index: int) -> str:
        """What source ``index`` is called: its name, or ``source-INDEX``."""
        name = self.sources[index].name if index < len(self.sources) else None
        return name or f"source-{index}"
