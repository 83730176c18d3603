"""The code of a syntax tree, and where each of its nodes stands in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import libcst as cst
from libcst._nodes.internal import CodegenState

Span = tuple[int, int]
"""The characters of the file from the first up to the second."""


def written(module: cst.Module) -> tuple[str, dict[cst.CSTNode, Span]]:
    """The code of a tree, and the span of each node in it."""
    state = _SpanState(module.default_indent, module.default_newline)
    module._codegen(state)
    return "".join(state.tokens), state.spans


@dataclass
class _SpanState(CodegenState):
    """Notes where each node is written, without the parentheses and white space around it.

    libcst's PositionProvider tells the same as lines and columns, and takes ten times as long.
    """

    spans: dict[cst.CSTNode, Span] = field(default_factory=dict)
    _offset: int = 0
    _starts: list[int] = field(default_factory=list)

    def add_token(self, value: str) -> None:
        self.tokens.append(value)
        self._offset += len(value)

    def add_indent_tokens(self) -> None:
        for token in self.indent_tokens:
            self.add_token(token)

    def before_codegen(self, node: cst.CSTNode) -> None:
        self._starts.append(self._offset)

    def after_codegen(self, node: cst.CSTNode) -> None:
        self.spans.setdefault(node, (self._starts.pop(), self._offset))

    @contextmanager
    def record_syntactic_position(
        self,
        node: cst.CSTNode,
        *,
        start_node: cst.CSTNode | None = None,
        end_node: cst.CSTNode | None = None,
    ) -> Iterator[None]:
        start = self._offset
        yield
        end = self._offset
        if start_node is not None:
            start = self.spans[start_node][0]
        if end_node is not None:
            end = self.spans[end_node][1]
        self.spans[node] = start, end
