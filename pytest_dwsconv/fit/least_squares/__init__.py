"""The replacement whose outputs are nearest, from second moments alone.

With central second moments A = E[x x^T] of the inputs under an output position (n = C/G k of them)
and B = E[y x^T] of the targets, a kernel W errs by tr H (W A W^T - 2 W B^T) plus a constant, where
H says how much the errors of the outputs matter, one by one and together. The kernel of a
replacement is linear in each of its parts, so each part is a linear least-squares problem given the
others; they are solved in turn.
"""
