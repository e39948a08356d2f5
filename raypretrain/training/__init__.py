"""What is learned: objective, schedule, engine, loop, checkpoint, and the Ray Train driver."""
