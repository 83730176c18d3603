"""What is known of latencies: comparisons, and the conditions they hold under."""
