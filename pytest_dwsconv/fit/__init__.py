"""Keeping what a network learned: fits to calibration data, budgets, and distillation."""
