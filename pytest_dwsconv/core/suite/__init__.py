"""A whole run of tests: its architectures, what they cost, and what they cost before."""
