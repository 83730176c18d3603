"""Plain numbers and verdicts; needs the standard library alone."""
