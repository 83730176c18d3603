"""Where analysis, factorisation and fit meet: rewrite(), apply_plan() and the torch.fx pass."""
