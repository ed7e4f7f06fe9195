"""What goes wrong, drawn by the seed: lines, stores, processes and brokers. Everything drawn here ends by itself or is
healed when the faults stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.network import Line

if TYPE_CHECKING:
    from tests.simulation.world import World

REFUSING_S = 120.0  # what is refused is asked for again a few times, ever more slowly
TAINTED_S = 150.0  # a lost event is found by the periodic reconcile: 60 s, a fifth more, and a failed one

CTRADER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("N02", {"code": 1001}),
    ("N02", {"code": 1012}),
    ("N10", {"status": 503, "count": 2}),
    ("N10", {"status": 429, "retryAfter": 5, "count": 1}),
    ("N11", {"bytesPerSecond": 200, "durationSeconds": 10}),
    ("N12", {"count": 1}),
    ("N14", {"count": 2, "probability": 0.5}),
    ("N16", {"count": 3}),
    ("N19", {"count": 3}),
    ("N20", {"count": 2, "durationSeconds": 10}),
    ("N22", {"count": 1}),
    ("N23", {"variant": "empty"}),
    ("N23", {"variant": "short"}),
    ("N23", {"variant": "error"}),
    ("N26", {"durationSeconds": 20}),
    ("N27", {"variant": "seconds", "endsInSeconds": 5, "durationSeconds": 5}),
    ("N27", {"variant": "milliseconds", "endsInSeconds": 3, "durationSeconds": 3}),
    ("N27", {"variant": "hang", "durationSeconds": 15}),
    ("N28", {"count": 3}),
    ("N28", {"retryAfter": 3, "count": 2}),
    ("N30", {"probability": 0.6}),
    ("N33", {"probability": 0.6}),
    ("N34", {"probability": 0.3}),
    ("N35", {"count": 2}),
    ("N37", {"limit": 1, "durationSeconds": 30}),
    ("N40", {}),
    ("N41", {"upSeconds": 2, "durationSeconds": 15}),
    ("N42", {"delaySeconds": 6, "count": 2}),
)
ALPACA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("N02", {}),
    ("N10", {"status": 503, "count": 2}),
    ("N12", {"count": 1}),
    ("N14", {"count": 2, "probability": 0.5}),
    ("N16", {"count": 2}),
    ("N19", {"count": 3}),
    ("N28", {"count": 2}),
    ("N37", {"durationSeconds": 20}),
    ("N40", {}),
    ("N41", {"upSeconds": 2, "durationSeconds": 15}),
)


class Faults:
    """One step: `act()` lets one thing go wrong."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.dice("faults")
        self._menu: list[tuple[int, Callable[[], None]]] = [
            (14, self._line),
            (14, self._broker),
            (6, self._database),
            (6, self._redis),
            (5, self._calls),
            (7, self._kill),
            (6, self._freeze),
            (4, self._partition),
            (7, self._token),
        ]

    def act(self) -> None:
        """Draw a fault and cause it."""
        chosen = self._rng.choices([act for _, act in self._menu], weights=[weight for weight, _ in self._menu])
        chosen[0]()

    def stop(self) -> None:
        """Everything is well from now on."""
        world = self._world
        world.armed = False
        world.database.heal()
        world.redis.heal()
        world.brokers.ctrader.actions.clear_faults()
        world.brokers.alpaca.actions.clear_faults()
        for process in world.alive:
            for line in process.lines.values():
                line.heal()
            process.frozen, process.thawed_at = False, world.loop.time()
        world.loop.thaw()
        if not world.alive:
            world.spawn()

    def _later(self, seconds: float, act: Callable[[], Any]) -> None:
        world = self._world

        def run() -> None:
            if world.armed:
                act()

        world.loop.call_later(seconds, run, context=world.context)

    # ------------------------------------------------------------ lines

    def _line(self) -> None:
        world, rng = self._world, self._rng
        lines = [(process, line) for process in world.alive for _, line in sorted(process.lines.items())]
        if not lines:
            return
        process, line = rng.choice(lines)
        kind = rng.choice(["cut", "cut", "refused", "silent", "silent in", "silent out", "no dial"])
        world.note("line", process.name, line.service, kind)
        world.sometimes(f"line {kind}")
        world.rough = True
        if kind == "cut":
            line.cut()
            return
        if kind == "refused":
            line.dial = "refused"
            line.cut()
        elif kind == "no dial":
            line.dial = "silent"
            line.cut()
        else:
            line.silent_in, line.silent_out = kind != "silent out", kind != "silent in"
            world.half_open = True
        self._later(rng.choice([1.0, 4.0, 12.0, 25.0]), lambda: self._heal(line))

    @staticmethod
    def _heal(line: Line) -> None:
        line.heal()

    # ------------------------------------------------------------ stores

    def _database(self) -> None:
        world, rng = self._world, self._rng
        seconds = rng.choice([0.5, 2.0, 6.0, 20.0])
        world.note("database down", seconds)
        world.sometimes("database down")
        world.database.up = False
        self._later(seconds, world.database.heal)

    def _redis(self) -> None:
        world, rng = self._world, self._rng
        if "redis" not in world.knobs.layout:
            return
        if rng.random() < 0.4:
            world.note("redis forgets")
            world.sometimes("store failover")
            world.lose_redis()
            return
        world.note("redis down")
        world.sometimes("redis down")
        world.redis.up = False
        self._later(rng.choice([0.5, 3.0, 10.0]), world.redis.heal)

    def _calls(self) -> None:
        """Calls to a shared thing fail now and then, before or after they had an effect, or are slow."""
        world, rng, knobs = self._world, self._rng, self._world.knobs
        service = rng.choice([world.database, world.redis])
        world.note("calls fail", service.name)
        service.refuses, service.loses_request, service.loses_reply = (
            knobs.refuses,
            knobs.loses_request,
            knobs.loses_reply,
        )
        service.delays = knobs.delays
        if rng.random() < 0.3:
            service.latency = (0.2, 2.0)
            world.sometimes("slow store")
        self._later(rng.choice([3.0, 10.0]), service.heal)

    def _partition(self) -> None:
        """One process is cut off from the database alone."""
        world, rng = self._world, self._rng
        if not world.alive:
            return
        process = rng.choice(world.alive)
        seconds = world.knobs.lease_s * rng.choice([0.3, 0.8, 1.5])
        world.database.delays = world.redis.delays = world.knobs.delays  # what is under way hangs in between
        world.note("partition", process.name, seconds)
        world.sometimes("partition from the database")
        world.database.cut_off |= {process.name}

        def heal() -> None:
            world.database.cut_off -= {process.name}
            world.database.delays = world.redis.delays = 0.0

        self._later(seconds, heal)

    # ------------------------------------------------------------ processes

    def _kill(self) -> None:
        world, rng = self._world, self._rng
        if not world.alive:
            world.spawn()
            return
        process = rng.choice(world.alive)
        silently = rng.random() < 0.3
        world.note("kill", process.name, silently)
        world.sometimes("kill")
        process.die(silently=silently)
        world.half_open |= silently
        if rng.random() < 0.7 and len(world.alive) < world.knobs.most_processes:
            self._later(rng.choice([0.2, 2.0, world.knobs.lease_s * 1.5]), world.spawn)

    def _freeze(self) -> None:
        """SIGSTOP, or a loop that is blocked."""
        world, rng = self._world, self._rng
        running = [process for process in world.alive if not process.frozen]
        if not running:
            return
        process = rng.choice(running)
        seconds = world.knobs.lease_s * rng.choice([0.1, 0.5, 1.2, 2.5])
        process.frozen = world.half_open = True
        world.note("freeze", process.name, seconds)
        world.sometimes("freeze")

        def thaw() -> None:
            process.frozen, process.thawed_at = False, world.loop.time()
            world.note("thaw", process.name)
            world.loop.thaw()

        world.loop.call_later(seconds, thaw, context=world.context)

    # ------------------------------------------------------------ brokers

    def _broker(self) -> None:
        world, rng = self._world, self._rng
        broker = rng.choice(world.knobs.brokers)
        fault, parameters = rng.choice(CTRADER if broker == "ctrader" else ALPACA)
        world.note("broker", broker, fault, sorted(parameters.items()))
        world.sometimes(f"{broker} {fault}")
        world.rough = True
        if fault in ("N14", "N20", "N22", "N23", "N12"):
            world.taint(broker, TAINTED_S)
        if fault == "N11":
            world.taint(broker, 30.0)
        if fault in ("N11", "N27", "N42"):
            world.half_open = True  # a login may be carried out whose answer nobody waits for any more
        world.refusing_until = max(world.refusing_until, world.loop.time() + REFUSING_S)
        actions: Any = world.brokers.ctrader.actions if broker == "ctrader" else world.brokers.alpaca.actions
        actions.fault(fault, **parameters)

    def _token(self) -> None:
        """An access token runs out, mostly; or consent is withdrawn, or all tokens run out at once."""
        world, rng = self._world, self._rng
        if "ctrader" not in world.knobs.brokers:
            return
        user = rng.randint(1, world.knobs.users)
        if world.brokers.ctrader.services.tokens.grant_of_user(user) is None:
            return
        dice = rng.random()
        if dice < 0.1:
            world.note("consent withdrawn", user)
            world.brokers.ctrader.actions.revoke(user)
            return
        if dice < 0.4:
            world.note("all tokens expire")
            world.sometimes("token expires")
            world.brokers.ctrader.actions.fault("N30", probability=1.0)
            return
        world.note("token expires", user)
        world.sometimes("token expires")
        world.brokers.ctrader.actions.expire(user)
        if rng.random() < 0.5:
            world.brokers.ctrader.actions.fault("N30", probability=1.0)
