"""cTrader's own Python client, unmodified, receiving price events on one connection, for scripts/bench.

Runs under the interpreter of that client's own environment and must not import anything of ours. An event counts when
the client's callback has it decoded. To its advantage the socket is plain TCP, not TLS. Reads and writes lines of JSON:
{"frames": n} is answered by {"armed": true} and, when n events came, by what they took.
"""

import json
import sys
import threading
import time

import ctrader_open_api.client
from ctrader_open_api import Client, Protobuf, TcpProtocol
from ctrader_open_api.messages.OpenApiMessages_pb2 import ProtoOASpotEvent
from twisted.internet import endpoints, reactor

WITHIN_S = 120


def plain_endpoint(the_reactor, description):
    return endpoints.clientFromString(the_reactor, description.replace("ssl:", "tcp:"))


ctrader_open_api.client.clientFromString = plain_endpoint


class Counter:
    def __init__(self):
        self.count = 0
        self.wanted = 0
        self.enough = threading.Event()

    def take(self, client, envelope):
        event = Protobuf.extract(envelope)
        if isinstance(event, ProtoOASpotEvent):
            self.count += 1
            if self.count == self.wanted:
                self.enough.set()


def say(**words):
    print(json.dumps(words), flush=True)


def timed(counter, frames):
    """Wall and processor time from the word to the sender until the last event."""
    base = counter.count
    counter.wanted = base + frames
    counter.enough.clear()
    say(armed=True)
    wall, processor = time.perf_counter(), time.process_time()
    if not counter.enough.wait(WITHIN_S):
        raise TimeoutError(f"{counter.count - base} of {frames} events came")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "perSecond": frames / wall,
        "cpuUs": processor / frames * 1e6,
        "busy": processor / wall,
        "surplus": counter.count - base - frames,
    }


def talk(counter):
    """In a thread of its own: the parent's lines until it closes."""
    for line in sys.stdin:
        say(**timed(counter, json.loads(line)["frames"]))
    reactor.callFromThread(reactor.stop)


def main(port):
    counter = Counter()
    client = Client("127.0.0.1", port, TcpProtocol)
    client.setMessageReceivedCallback(counter.take)
    client.setConnectedCallback(lambda _: say(ready=True))
    reactor.callInThread(talk, counter)
    reactor.callWhenRunning(client.startService)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
