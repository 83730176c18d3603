"""What models are held to: budgets, and the baseline."""
