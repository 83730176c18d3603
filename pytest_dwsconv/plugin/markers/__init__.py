"""What the markers check, one module per marker."""
