"""What runs on the host of the device: each file is sent there as text and stands alone."""
