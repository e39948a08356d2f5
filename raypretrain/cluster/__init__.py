"""Where it runs: submitting to a Ray cluster, following what runs there, and finding out what is wrong with it."""
