"""Which layers to replace, and how: under a budget, and for the machine that they run on."""
