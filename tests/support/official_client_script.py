"""Runs inside the official client's own environment: talks to a simulator with the unmodified `ctrader-open-api`.

Started as `python official_client_script.py <mode> '<json parameters>'`; prints one JSON object with what it saw.
It must not import anything of ours. Modes: `session` (log in, read, subscribe, trade), `refused` (application auth
with the given credentials), `token` (code exchange and refresh at the token endpoint).
"""

import json
import sys

from ctrader_open_api import Auth, Client, Protobuf, TcpProtocol
from ctrader_open_api.messages import OpenApiMessages_pb2 as m
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as o
from twisted.internet import defer, reactor

PARAMETERS = json.loads(sys.argv[2])
GIVE_UP_S = 60
EVENT_WITHIN_S = 10


class Conversation:
    """One client connection, with every received message kept by class name."""

    def __init__(self):
        self.client = Client(PARAMETERS["host"], PARAMETERS["port"], TcpProtocol)
        self.connected = defer.Deferred()
        self.disconnected = False
        self.received = []
        self.waiting = []
        self.client.setConnectedCallback(self._connect)
        self.client.setDisconnectedCallback(self._disconnect)
        self.client.setMessageReceivedCallback(self._receive)

    def _connect(self, client):
        if not self.connected.called:
            self.connected.callback(None)

    def _disconnect(self, client, reason):
        self.disconnected = True

    def _receive(self, client, envelope):
        message = Protobuf.extract(envelope)
        self.received.append(message)
        for entry in list(self.waiting):
            matches, deferred = entry
            if matches(message):
                self.waiting.remove(entry)
                deferred.callback(message)

    def until(self, matches):
        """The first message, already received or still to come, that matches."""
        for message in self.received:
            if matches(message):
                return defer.succeed(message)
        deferred = defer.Deferred()
        deferred.addTimeout(EVENT_WITHIN_S, reactor)
        self.waiting.append((matches, deferred))
        return deferred

    def ask(self, request):
        """Send a request; fires with the decoded answer."""
        deferred = self.client.send(request, responseTimeoutInSeconds=EVENT_WITHIN_S)
        return deferred.addCallback(Protobuf.extract)


def executions(kind):
    return lambda message: isinstance(message, m.ProtoOAExecutionEvent) and message.executionType == kind


@defer.inlineCallbacks
def session():
    talk = Conversation()
    talk.client.startService()
    yield talk.connected
    seen = {}
    yield talk.ask(
        m.ProtoOAApplicationAuthReq(clientId=PARAMETERS["clientId"], clientSecret=PARAMETERS["clientSecret"])
    )
    token = PARAMETERS["accessToken"]
    accounts = yield talk.ask(m.ProtoOAGetAccountListByAccessTokenReq(accessToken=token))
    seen["accounts"] = [[each.ctidTraderAccountId, each.isLive] for each in accounts.ctidTraderAccount]
    account = accounts.ctidTraderAccount[0].ctidTraderAccountId
    unauthorised = yield talk.ask(m.ProtoOATraderReq(ctidTraderAccountId=account))
    seen["beforeAuth"] = [unauthorised.errorCode, unauthorised.description]
    wrong = yield talk.ask(m.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken="nonsense"))
    seen["wrongToken"] = [wrong.errorCode, wrong.description]
    yield talk.ask(m.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=token))
    trader, listed, snapshot, bars = yield defer.gatherResults(
        [
            talk.ask(m.ProtoOATraderReq(ctidTraderAccountId=account)),
            talk.ask(m.ProtoOASymbolsListReq(ctidTraderAccountId=account)),
            talk.ask(m.ProtoOAReconcileReq(ctidTraderAccountId=account)),
            talk.ask(
                m.ProtoOAGetTrendbarsReq(
                    ctidTraderAccountId=account,
                    symbolId=PARAMETERS["symbolId"],
                    period=o.M1,
                    fromTimestamp=PARAMETERS["nowMs"] - 3_600_000,
                    toTimestamp=PARAMETERS["nowMs"],
                )
            ),
        ]
    )
    seen["balance"] = [trader.trader.balance, trader.trader.moneyDigits]
    seen["symbols"] = [each.symbolName for each in listed.symbol]
    seen["positionsBefore"] = len(snapshot.position)
    seen["bars"] = len(bars.trendbar)
    symbol = listed.symbol[0].symbolId
    yield talk.ask(m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account, symbolId=[symbol]))
    spot = yield talk.until(lambda message: isinstance(message, m.ProtoOASpotEvent))
    seen["spot"] = [spot.symbolId, spot.bid, spot.ask]
    first = yield talk.ask(
        m.ProtoOANewOrderReq(
            ctidTraderAccountId=account,
            symbolId=symbol,
            orderType=o.MARKET,
            tradeSide=o.BUY,
            volume=1_000_000,
            clientOrderId="official-1",
        )
    )
    filled = yield talk.until(executions(o.ORDER_FILLED))
    seen["firstExecution"] = [o.ProtoOAExecutionType.Name(first.executionType), first.order.clientOrderId]
    seen["filled"] = [filled.deal.filledVolume, filled.deal.executionPrice, filled.position.tradeData.volume]
    after = yield talk.ask(m.ProtoOAReconcileReq(ctidTraderAccountId=account))
    seen["positionsAfter"] = [each.positionId for each in after.position]
    bad = yield talk.ask(
        m.ProtoOANewOrderReq(
            ctidTraderAccountId=account, symbolId=symbol, orderType=o.MARKET, tradeSide=o.BUY, volume=1
        )
    )
    seen["badVolume"] = [type(bad).__name__, bad.errorCode]
    return seen


@defer.inlineCallbacks
def refused():
    talk = Conversation()
    talk.client.startService()
    yield talk.connected
    answer = yield talk.ask(
        m.ProtoOAApplicationAuthReq(clientId=PARAMETERS["clientId"], clientSecret=PARAMETERS["clientSecret"])
    )
    gone = defer.Deferred()
    reactor.callLater(0.5, gone.callback, None)
    yield gone
    return {"errorCode": answer.errorCode, "description": answer.description, "closed": talk.disconnected}


def token():
    auth = Auth(PARAMETERS["clientId"], PARAMETERS["clientSecret"], "http://localhost/back")
    exchanged = auth.getToken(PARAMETERS["code"], PARAMETERS["tokenUrl"])
    refreshed = auth.refreshToken(exchanged["refreshToken"], PARAMETERS["tokenUrl"])
    spent = auth.refreshToken(exchanged["refreshToken"], PARAMETERS["tokenUrl"])
    return {"exchanged": exchanged, "refreshed": refreshed, "spent": spent}


def finish(result):
    if hasattr(result, "getTraceback"):
        print(json.dumps({"failure": result.getTraceback()}), flush=True)
    else:
        print(json.dumps(result), flush=True)
    reactor.stop()


if sys.argv[1] == "token":
    print(json.dumps(token()), flush=True)
else:
    reactor.callLater(GIVE_UP_S, reactor.stop)
    reactor.callWhenRunning(lambda: {"session": session, "refused": refused}[sys.argv[1]]().addBoth(finish))
    reactor.run()
