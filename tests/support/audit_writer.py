"""A process that writes to the audit log. Arguments: address of the database, name, how many, how many at once.

Prints the number of entries that are certainly written, after each lot.
"""

import asyncio
import random
import sys

from bridge.audit.log import AuditLog
from bridge.db.database import Database
from bridge.runtime.clock import SystemClock
from bridge.telemetry.audit import Action
from core.secret import Secret


async def main(url: str, name: str, count: int, at_once: int) -> None:
    database = Database(Secret(url), size=1)
    await database.open()
    log = AuditLog(database, clock=SystemClock(), rng=random.Random(name))
    log.start()
    for number in range(count):
        log.record(Action.START, user_key=None, actor=f"key:{name}", detail={"n": number})
        if (number + 1) % at_once == 0:
            assert await log.flush(60)
            print(number + 1, flush=True)
    await log.close(30)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
