"""The network: transformer, presets, heads, import from and export to Hugging Face."""
