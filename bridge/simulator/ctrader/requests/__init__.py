"""What a client may ask, by subject; one handler per payload type."""

from bridge.simulator.ctrader.requests import account, history, session, spots, symbols, trading
from bridge.simulator.ctrader.requests.call import Handlers
from bridge.simulator.ctrader.requests.history import HISTORICAL

__all__ = ["HANDLERS", "HISTORICAL"]

HANDLERS: Handlers = {
    **session.HANDLERS,
    **account.HANDLERS,
    **symbols.HANDLERS,
    **spots.HANDLERS,
    **trading.HANDLERS,
    **history.HANDLERS,
}
