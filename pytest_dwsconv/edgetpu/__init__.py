"""The Edge TPU: export, model files, compiler, and measuring on the connected device."""
