"""Where latencies are measured: the backend of a target, and the Edge TPU as one of them."""
