"""What networks and brokers do."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "N01": Row("connection reset while live", "every session on it says so within a flush, and is read again"),
    "N02": Row("clean close 1000, 1001 or 1012", "as N01; said once per connection, not once per session"),
    "N03": Row(
        "half-open: the peer is silent and the socket stays", "declared dead by a probe; nothing looks fresh after"
    ),
    "N04": Row("one way lost: we are heard and hear nothing", "as N03; nothing is sent twice"),
    "N05": Row("nobody answers the dial", "given up in time; the next address is tried"),
    "N06": Row("the dial is refused", "waits grow, up to a bound"),
    "N07": Row("the name cannot be resolved, or to a new address", "tried again; resolved anew for every dial"),
    "N08": Row(
        "TLS: expired, another host's, unknown, too old", "refused before any secret is sent; seen by operators"
    ),
    "N09": Row("TLS that stops in the handshake", "given up in time; its place among the dials is free again"),
    "N10": Row("the upgrade is refused with an HTTP status", "told apart; never tried sooner than Retry-After says"),
    "N11": Row("a peer that trickles", "as N01 once no message is whole in time; memory stays, others go on"),
    "N12": Row("a message cut short, then the end", "nothing of a part is used"),
    "N13": Row(
        "a message too long, or a bomb of few bytes", "refused above 16 MiB; memory grows by less than twice that"
    ),
    "N14": Row("garbage", "counted and dropped; too much of it ends the connection; the process and others go on"),
    "N15": Row("a required value unknown or missing", "not used as something else; the account is read again"),
    "N16": Row("messages or fields that nobody knows", "ignored and counted; the state is the same"),
    "N17": Row("right type, absurd value", "never shown; every record is strict JSON"),
    "N18": Row("events of an account that is not on the connection", "dropped and counted; in nobody's record"),
    "N19": Row("the same execution twice, also after a reconnect", "counts once"),
    "N20": Row("events in another order", "the same state in the end"),
    "N21": Row("events lost or late", "found by reading again, within its period"),
    "N22": Row("something happens while a snapshot is on its way", "it is kept"),
    "N23": Row("a snapshot that is an error, empty or short", "what is held does not vanish on one answer"),
    "N24": Row("history in pages", "read to the end"),
    "N25": Row("our loop stands still and the broker gives us up", "back; the stall is told by name and counted"),
    "N26": Row("heartbeats are missing or echoed", "a probe decides; no reconnect, nothing echoed"),
    "N27": Row("maintenance, with any announced end", "shown as such; one probe per connection; no user's fault"),
    "N28": Row("too many requests, by the broker's word", "that kind pauses; no budget is exceeded"),
    "N29": Row("an order answered with a rate limit", "in doubt, never sent again by itself"),
    "N30": Row("tokens end", "renewed once for all accounts of a consent; nobody else is touched"),
    "N31": Row("the renewal is refused, or the keys are", "the user is asked; nothing more is tried"),
    "N32": Row("renewed, and killed before it is stored", "ends live or with the user; a token is sent twice at most"),
    "N33": Row("one account is logged out", "logged in again alone; the connection stays"),
    "N34": Row("the application is blocked", "one attempt per pause for all; operators are told"),
    "N35": Row("logged in already", "as good as logged in"),
    "N36": Row("an authorisation that is gone without a word", "authorised again, three times at most"),
    "N37": Row("no slot for a connection", "shown; waited for, and not hammered"),
    "N38": Row("the wall clock jumps", "no session ends, no lease is lost or kept for it"),
    "N39": Row("the process is frozen and wakes up", "nothing looks fresh meanwhile; no write under an old fence"),
    "N40": Row("everybody is cut at once", "back within the budgets, those at risk first; no refusals"),
    "N41": Row("up a moment, down again, for ever", "the number of attempts is bounded"),
    "N42": Row("a slow login", "given up in time; nobody else waits for it"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {
    "N29": "the bridge sends no orders yet (they come with the order issue); what a second client's order executes "
    "under such an answer is shown, which `test_broker_ctrader_requests.py` and `test_broker_alpaca_rest.py` ask for",
}
