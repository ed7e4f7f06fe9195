"""A table of figures with their bounds, and whether every one of them holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: what it is, what was seen, what is allowed, and whether it holds."""

    what: str
    seen: str
    allowed: str = ""
    holds: bool = True


class Verdicts:
    """Lines in the order in which they were judged."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def note(self, what: str, seen: str) -> None:
        """A figure that is only told."""
        self.lines.append(Line(what, seen))

    def most(self, what: str, seen: float, allowed: float, unit: str = "", digits: int = 0) -> None:
        """A figure that may not be above `allowed`; one that could not be measured does not hold."""
        unit = f" {unit}" if unit else ""
        holds = seen <= allowed  # False for NaN
        self.lines.append(Line(what, f"{seen:,.{digits}f}{unit}", f"<= {allowed:,.{digits}f}{unit}", holds))

    def true(self, what: str, holds: bool, seen: str, allowed: str) -> None:
        """A condition."""
        self.lines.append(Line(what, seen, allowed, holds))

    @property
    def hold(self) -> bool:
        return all(line.holds for line in self.lines)

    def __str__(self) -> str:
        rows = [("", "seen", "allowed", "")]
        rows += [(each.what, each.seen, each.allowed, verdict(each)) for each in self.lines]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"{what:<{widths[0]}}  {seen:>{widths[1]}}  {allowed:>{widths[2]}}  {said}".rstrip()
            for what, seen, allowed, said in rows
        )


def verdict(line: Line) -> str:
    """The last column."""
    return "" if not line.allowed else "ok" if line.holds else "DOES NOT HOLD"
