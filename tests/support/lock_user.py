"""A process that takes a lock again and again and looks whether anybody else is inside at the same time.

Arguments: address of the database, name of the lock, how many times, "wait" or "try". Prints how often it was inside.
Ends with 3 when somebody else was.
"""

import asyncio
import sys

from bridge.db.database import Database
from bridge.db.locks import LockBusy, Locks
from bridge.runtime.clock import SystemClock
from core.secret import Secret


async def inside(direct: Database, name: str) -> None:
    """Enter and leave a place for one. `direct` does not take part in the lock's transaction."""
    await direct.execute("update public.place set inside = inside + 1 where name = $1", name)
    if await direct.fetch_value("select inside from public.place where name = $1", name) != 1:
        sys.exit(3)
    await direct.execute("update public.place set inside = inside - 1, times = times + 1 where name = $1", name)


async def main(url: str, name: str, times: int, how: str) -> int:
    database, direct = Database(Secret(url), size=2), Database(Secret(url), size=1)
    await database.open()
    await direct.open()
    locks = Locks(database, SystemClock())
    done = 0
    for _ in range(times):
        if how == "wait":
            try:
                async with locks.with_lock(name, timeout_s=20):
                    await inside(direct, name)
                    done += 1
            except LockBusy:
                continue
        else:
            async with locks.try_with_lock(name) as held:
                if held is not None:
                    await inside(direct, name)
                    done += 1
    await database.close()
    await direct.close()
    return done


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
