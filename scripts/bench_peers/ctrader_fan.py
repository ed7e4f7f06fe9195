"""cTrader's own Python client, unmodified, with a connection per user in one process, for scripts/bench.

Runs under the interpreter of that client's own environment (tests/support/official_client.py) and must not import
anything of ours. It decodes every price event and keeps the newest price: no account, no record, no store. To its
advantage its sockets are plain TCP, not TLS, and logins are sent at once: its send queue is one for all connections of
a process, so that a queued login could leave on another user's socket.

    python ctrader_fan.py FILE

with {"host", "port", "clientId", "clientSecret", "users": [{"account", "token", "symbols"}, …]} in the file. Speaks
lines of JSON as the Node bridge beside it does.
"""

import json
import sys

import ctrader_open_api.client
from ctrader_open_api import Client, Protobuf, TcpProtocol
from ctrader_open_api.messages import OpenApiMessages_pb2 as m
from twisted.internet import defer, endpoints, reactor, threads

AT_ONCE = 50


def plain_endpoint(the_reactor, description):
    return endpoints.clientFromString(the_reactor, description.replace("ssl:", "tcp:"))


ctrader_open_api.client.clientFromString = plain_endpoint


class Fleet:
    def __init__(self, parameters):
        self.parameters = parameters
        self.users = []
        self.events = 0

    @defer.inlineCallbacks
    def grow(self, to):
        while len(self.users) < to:
            have = len(self.users)
            newest = [User(self, each) for each in self.parameters["users"][have : min(to, have + AT_ONCE)]]
            yield defer.gatherResults([user.log_in() for user in newest], consumeErrors=True)
            self.users += newest


class User:
    def __init__(self, fleet, entry):
        self.fleet = fleet
        self.entry = entry
        self.quotes = {}
        self.waiting = {}
        self.client = Client(fleet.parameters["host"], fleet.parameters["port"], TcpProtocol)
        self.client.setMessageReceivedCallback(self.received)

    @defer.inlineCallbacks
    def log_in(self):
        self.client.startService()
        self.protocol = yield self.client.whenConnected(failAfterFailures=1)
        account = self.entry["account"]
        known = self.fleet.parameters
        yield self.ask(m.ProtoOAApplicationAuthReq(clientId=known["clientId"], clientSecret=known["clientSecret"]))
        yield self.ask(m.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=self.entry["token"]))
        yield self.ask(m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account, symbolId=self.entry["symbols"]))

    def ask(self, request):
        name = str(len(self.waiting))
        deferred = self.waiting[name] = defer.Deferred()
        self.protocol.send(request, instant=True, clientMsgId=name)
        return deferred.addTimeout(60, reactor)

    def received(self, client, envelope):
        message = Protobuf.extract(envelope)
        if isinstance(message, m.ProtoOASpotEvent):
            self.quotes[message.symbolId] = (message.bid, message.ask)
            self.fleet.events += 1
        elif envelope.clientMsgId in self.waiting:
            deferred = self.waiting[envelope.clientMsgId]
            if isinstance(message, m.ProtoOAErrorRes):
                deferred.errback(RuntimeError(f"{message.errorCode}: {message.description}"))
            else:
                deferred.callback(message)


def say(**words):
    print(json.dumps(words), flush=True)


def talk(fleet):
    """In a thread of its own: the parent's lines until it closes."""
    for line in sys.stdin:
        to = json.loads(line).get("to")
        if to is not None:
            threads.blockingCallFromThread(reactor, fleet.grow, to)
        say(users=len(fleet.users), events=fleet.events)
    reactor.callFromThread(reactor.stop)


def main(path):
    with open(path) as file:
        fleet = Fleet(json.load(file))
    reactor.callInThread(talk, fleet)
    say(ready=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
