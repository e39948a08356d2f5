"""The whole arc on real text, as one command."""
