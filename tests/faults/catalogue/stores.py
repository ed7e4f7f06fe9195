"""What caches and databases do."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "C01": Row("Redis refuses or is killed", "sessions stay up; the newest version of every record is written later"),
    "C02": Row("Redis answers slowly or not at all", "a flush has a deadline; the event loop waits for nobody"),
    "C03": Row("Redis is read-only after a failover", "dialled anew; every owned record is written again"),
    "C04": Row("a failover lost writes and fences", "everything is written again; fences only grow"),
    "C05": Row("Redis is full", "said in health; nothing grows here; written when there is room"),
    "C06": Row("Redis forgets its scripts", "loaded again; nobody notices"),
    "C07": Row("a command is cancelled, its reply still comes", "the reply reaches nobody else"),
    "C08": Row("the reply to a write is lost", "at most one effect; a repeated write counts as success"),
    "C09": Row("Postgres restarts at once, under load", "back by itself; nothing accepted is lost or stored twice"),
    "C10": Row("no database connection is free", "callers wait a bounded time; flushing has connections of its own"),
    "C11": Row("failover to a read-only standby", "dialled anew until the primary is back; nothing is lost"),
    "C12": Row("a pooler in transaction mode", "everything works; nothing is kept in a database session"),
    "C13": Row("deadlock, conflict, statement time-out, ended session", "told apart, repeated within bounds or said"),
    "C14": Row("Supabase answers oddly, or not at all", "no write is reported that did not happen; waits are kept"),
    "C15": Row("one record of a batch cannot be stored", "only that one is left out"),
    "C16": Row("garbage where a record should be", "readers survive; overwritten by the next record"),
    "C17": Row("a record expired under its owner", "written again; an older owner is refused all the same"),
    "C18": Row("two deployments share one Redis", "the second one refuses to start"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {}
