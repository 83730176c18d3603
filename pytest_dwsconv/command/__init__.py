"""The command line ``dwsconv-rewrite``, and what a running model adds to a source file."""
