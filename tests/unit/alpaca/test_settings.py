"""What follows from the settings of the Alpaca adapter: addresses, feeds, consent."""

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Environment
from core.secret import Secret


def test_stream_addresses_follow_the_rest_ones_when_not_said() -> None:
    plain = AlpacaSettings()
    assert plain.stream_url(Environment.LIVE) == "wss://api.alpaca.markets/stream"
    assert plain.stream_url(Environment.DEMO) == "wss://paper-api.alpaca.markets/stream"
    local = AlpacaSettings(paper_url="http://127.0.0.1:5/", live_stream_url="wss://elsewhere/x")
    assert local.rest_url(Environment.DEMO) == "http://127.0.0.1:5"
    assert local.stream_url(Environment.DEMO) == "ws://127.0.0.1:5/stream"
    assert local.stream_url(Environment.LIVE) == "wss://elsewhere/x"


def test_there_is_no_data_stream_when_the_feed_is_off() -> None:
    assert AlpacaSettings(data_feed="sip").stock_data_url() == "wss://stream.data.alpaca.markets/v2/sip"
    assert AlpacaSettings().crypto_data_url() == "wss://stream.data.alpaca.markets/v1beta3/crypto/us"
    off = AlpacaSettings(data_feed="off")
    assert off.stock_data_url() is off.crypto_data_url() is None


def test_users_may_consent_when_both_halves_of_the_application_are_configured() -> None:
    assert not AlpacaSettings(client_id="c").consents
    assert AlpacaSettings(client_id="c", client_secret=Secret("s")).consents
