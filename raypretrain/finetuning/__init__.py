"""What is adapted: tasks, trials, search, and the Ray Tune driver."""
