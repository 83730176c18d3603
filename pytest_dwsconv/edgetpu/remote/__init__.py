"""The host of the device: the connection to it, and what runs there, which is sent as text."""
