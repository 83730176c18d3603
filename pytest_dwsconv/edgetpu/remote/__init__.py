"""What runs on the host of the device: its files are sent there as text, and need no other."""
