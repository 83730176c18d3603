"""One layer at a time: what it sees, its replacements fitted, and the best of them."""
