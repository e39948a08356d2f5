"""Searching the settings of pretraining: short runs, the poor ones ended early, the best continued."""
