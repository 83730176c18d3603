"""Models that nobody named: noticed when a test calls them, told apart by what they are."""
