"""Source trees: each file of source code a document, its language told by its suffix."""

from __future__ import annotations

from dataclasses import dataclass

from raypretrain.corpus.text_formats import WholeText

LANGUAGES = {
    ".asm": "Assembly", ".bash": "Shell", ".c": "C", ".cc": "C++", ".clj": "Clojure", ".cmake": "CMake",
    ".cpp": "C++", ".cs": "C#", ".css": "CSS", ".cu": "CUDA", ".cxx": "C++", ".dart": "Dart", ".el": "Lisp",
    ".erl": "Erlang", ".ex": "Elixir", ".exs": "Elixir", ".f90": "Fortran", ".fs": "F#", ".go": "Go",
    ".groovy": "Groovy", ".h": "C", ".hh": "C++", ".hpp": "C++", ".hs": "Haskell", ".htm": "HTML",
    ".html": "HTML", ".java": "Java", ".jl": "Julia", ".js": "JavaScript", ".jsx": "JavaScript",
    ".kt": "Kotlin", ".kts": "Kotlin", ".lisp": "Lisp", ".lua": "Lua", ".md": "Markdown", ".mjs": "JavaScript",
    ".ml": "OCaml", ".nim": "Nim", ".php": "PHP", ".pl": "Perl", ".pm": "Perl", ".proto": "Protocol Buffers",
    ".ps1": "PowerShell", ".py": "Python", ".pyi": "Python", ".pyx": "Cython", ".r": "R", ".rb": "Ruby",
    ".rs": "Rust", ".rst": "reStructuredText", ".scala": "Scala", ".scss": "CSS", ".sh": "Shell", ".sql": "SQL",
    ".svelte": "Svelte", ".swift": "Swift", ".tex": "TeX", ".ts": "TypeScript", ".tsx": "TypeScript",
    ".vhdl": "VHDL", ".vue": "Vue", ".zig": "Zig", ".zsh": "Shell",
}  # fmt: skip


@dataclass(frozen=True)
class SourceCode(WholeText):
    """A file of source code: one document, whatever the source's ``documents`` says of ``.txt``."""

    name = "source"
    suffixes = tuple(LANGUAGES)
    passes_over_others = True

    @property
    def language(self) -> str | None:
        name = self.url.lower().removesuffix(self.compression)
        return LANGUAGES.get(name[name.rfind(".") :])
