"""A few hundred generated requests against a live bridge; `scripts/fuzz_api` sends ten thousand."""

from pathlib import Path

import pytest

from tests.support.fault_table import fault
from tests.support.fuzz import fuzz

REQUESTS = 300


@pytest.mark.slow
@fault("I01", "300 requests generated from the schema", "never a 5xx")
async def test_no_generated_request_gets_a_5xx_or_an_undocumented_answer(tmp_path: Path):
    outcome = await fuzz(tmp_path, requests=REQUESTS, seed=7)
    assert outcome.found == [], outcome.found[0]
    assert outcome.server_errors == 0, outcome.answers
    assert outcome.requests >= REQUESTS
    assert {"200", "202", "404", "409", "422"} <= outcome.answers.keys(), "the requests must reach the services"
