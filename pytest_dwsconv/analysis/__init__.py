"""``analyze``: a recorded forward and the rules make a report."""
