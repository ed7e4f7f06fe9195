"""The faults that the suite causes, by id, and those that this code base cannot meet yet.

Only words are here, for `docs/faults.md`; how a fault is caused and what is seen is in the tests that carry its id.
"""

from tests.faults.catalogue import inputs, network, process, stores

FAMILIES = {
    "Network and broker": network,
    "Cache and database": stores,
    "Process": process,
    "Input and HTTP": inputs,
}

ROWS = {fault_id: row for family in FAMILIES.values() for fault_id, row in family.ROWS.items()}
ELSEWHERE = {fault_id: why for family in FAMILIES.values() for fault_id, why in family.ELSEWHERE.items()}
