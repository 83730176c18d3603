"""Plain numbers and verdicts: what the rest of the package computes with, by the standard library
alone.
"""
