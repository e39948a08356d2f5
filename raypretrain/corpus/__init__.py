"""Which bytes: sources, manifest, documents, and the held-out split."""
