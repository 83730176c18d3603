"""Keeping what a network learned: the fit to calibration data, plans under a budget, and
distillation.
"""
