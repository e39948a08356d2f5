"""What a recipe will need before it starts: compute, memory, time and money. Plain functions; no torch, no Ray."""
