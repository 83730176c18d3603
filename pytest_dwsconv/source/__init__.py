"""Where source makes convolutions, and the rewrite of that source. Never imports torch."""
