"""Columns of text, lined up."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Collection[int] = ()) -> list[str]:
    """A header and rows, two blanks in front; `texts`: columns set to the left, the others to the right."""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        set_ = (
            cell.ljust(width) if at in texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"  {'  '.join(set_)}".rstrip()

    return [joined(header), *(joined(row) for row in rows)]
