"""Runs one seed: the world, its operations and faults, then calm, then what must be true in the end."""
from __future__ import annotations
import asyncio, sys, time
from random import Random
from tests.simulation.knobs import draw
from tests.simulation.leaks import sealed_off
from tests.simulation.loop import VirtualLoop
from tests.simulation.world import World
from bridge.brokers.base import Environment

async def main(world):
    try:
        await world.open()
        ps = [world.spawn() for _ in range(2)]
        await asyncio.sleep(3)
        from collections import Counter
        for broker in world.knobs.brokers:
          for u in range(1, world.knobs.users+1):
            v = await world.loop.create_task(ps[0].service.start(user_id=f"user-{u}", broker=broker, account_id=None, environment=None), context=ps[0].context)
        for i in range(12):
            await asyncio.sleep(5)
            print(world.loop.time(), [(p.name, p.service.counts(), [str(e[0].code)+str(s.reason) for p2 in [p] for s in p.service._table for e in [s.evidence] if e]) for p in ps])
    finally:
        await world.close()

def run(seed, **over):
    from dataclasses import replace
    knobs = replace(draw(Random(seed)), crash_share=0, **over)
    loop = VirtualLoop(Random(f"{seed} ties"))
    asyncio.set_event_loop(None)
    t=time.time()
    with sealed_off(loop, Random(f"{seed} libraries")):
        world = World(seed, knobs, loop)
        try:
            loop.run_until_complete(main(world))
        finally:
            loop.close()
    print(world.trace, time.time()-t, loop.handles_run, world.broken)
if __name__=="__main__":
    run(int(sys.argv[1]), brokers=tuple(sys.argv[2].split(",")))
