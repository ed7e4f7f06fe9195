"""Freshness has no figure here: it is held under every fault by the fault suite, and this row says where to look."""

from __future__ import annotations

from scripts.benchmarks.report import Row


async def measure(quick: bool) -> list[Row]:
    return [
        Row(
            figure="records that look fresh beyond their horizon, under every fault",
            ours="not measured here: the fault suite holds it at 0 in every case (./scripts/test tests/faults)",
            compared_with="docs/faults.md lists every fault with what was observed",
            ratio="",
        )
    ]
