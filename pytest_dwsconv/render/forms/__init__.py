"""The forms a report can take, one module per form."""
