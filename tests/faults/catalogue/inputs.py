"""What callers send."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "I01": Row(
        "fields missing, empty, of the wrong type, nested, doubled", "refused with the path of the field; never a 500"
    ),
    "I02": Row("a body over the limit, told or not, dripping", "413 early; the connection ends"),
    "I03": Row("heads or bodies that drip", "408 in time; others are answered as ever"),
    "I04": Row("ids of broken, odd or look-alike characters", "refused, or a user of their own: no two share a key"),
    "I05": Row("paths that are spelt in other ways", "not found; no rule of access is passed by"),
    "I06": Row("wrong methods and types, smuggled requests", "refused; one request in, one handled"),
    "I07": Row("numbers that are none, or too large", "refused with the path of the field"),
    "I08": Row("an order repeated under its key", "the same answer; no second order"),
    "I09": Row("another order under the same key", "refused; no order"),
    "I10": Row("a session that is stopped, stale or another's", "refused, and nothing of it is shown"),
    "I11": Row("forged, expired and broken tokens", "401, all alike; the issuer is hardly asked"),
    "I12": Row("the issuer's keys cannot be had, or rotate", "users who are known go on; one asks for all"),
    "I13": Row("inbound webhooks, forged or repeated", "taken once"),
    "I14": Row("outbound webhooks to addresses within", "blocked at the address itself"),
    "I15": Row("a webhook's target is slow or endless", "no effect on flushing"),
    "I16": Row("forged forwarding headers", "the rate limit holds"),
    "I17": Row("pages of foreign origins", "an exact list; no wildcard with credentials"),
    "I18": Row("thousands of requests or sockets at once", "bounded; 503 with a time to come back"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {
    "I08": "there are no orders yet",
    "I09": "there are no orders yet",
    "I13": "there are no inbound webhooks yet",
    "I14": "users cannot name webhooks yet; the operator's alert address is configuration",
    "I15": "users cannot name webhooks yet",
}
