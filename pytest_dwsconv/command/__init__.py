"""The command line ``dwsconv-rewrite``, its settings, and what a running model adds to a file."""
