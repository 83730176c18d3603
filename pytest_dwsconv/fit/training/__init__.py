"""Training with the original as the teacher: refinement on few data, distillation on many."""
