"""What is asked of a world: whose a key is, what is stored, who owns it, what the broker says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.credentials.sealed import open_secrets
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import StoredSession
from tests.support.storm import differences

if TYPE_CHECKING:
    from tests.simulation.operations import Row
    from tests.simulation.processes import BridgeProcess
    from tests.simulation.watching import WatchedStore
    from tests.simulation.world import World


class Questions:
    """Answers about one world; changes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        users = range(1, world.knobs.users + 1)
        self._users = {world.user_keys.keys(f"user-{number}").canonical: f"user-{number}" for number in users}

    # ------------------------------------------------------------ keys

    def whose(self, key: str) -> tuple[str, str]:
        """User and broker of a record's key."""
        broker, _, rest = key.partition("_account_")
        return self._users[rest.partition("_")[0]], broker

    def owner_of(self, broker: str, account_id: str) -> str | None:
        """Whose account it is, says the broker."""
        brokers = self._world.brokers
        if broker == "ctrader":
            account = brokers.ctrader.services.world.accounts.get(int(account_id))
            return None if account is None else f"user-{account.user}"
        other = brokers.alpaca.services.world.accounts.get(account_id)
        return None if other is None else f"user-{other.user}"

    def keys_of(self, row: StoredSession) -> tuple[str, ...]:
        """Where the record of a stored session is."""
        shown = self._world.desired._shown(row)
        return keys_of_row(row.broker, (row.user_key,), row.account_id, shown.default_account)

    def row_of(self, key: str) -> StoredSession | None:
        """The stored session whose record this is."""
        return next((row for row in self._world.desired.rows() if key in self.keys_of(row)), None)

    # ------------------------------------------------------------ what is stored

    def stored(self, row: Row) -> StoredSession | None:
        """A stored session; one whose account was not known when it was started may have it by now."""
        user_key, broker, account_id = row
        rows = [each for each in self._world.desired.rows() if (each.user_key, each.broker) == (user_key, broker)]
        named = next((each for each in rows if (each.account_id or "") == account_id), None)
        if named is not None or broker == "ctrader":
            return named
        return rows[0] if len(rows) == 1 else None  # at Alpaca a user has one account of each kind

    def layout_stores(self) -> list[WatchedStore]:
        """The stores in use, primary first."""
        return [self._world.stores[name] for name in self._world.knobs.layout.split("+")]

    def process_named(self, owner: str | None) -> BridgeProcess | None:
        """The living process with that name in the database."""
        return next((each for each in self._world.alive if each.standing.owner == owner), None)

    def consent_is_lost(self, row: StoredSession) -> bool:
        """Whether the stored refresh token is not the newest one any more: only the user can help."""
        grant = self._world.grants.find(row.user_key, row.broker)
        if grant is None or row.broker != "ctrader":
            return False
        kept = open_secrets(self._world.vault, grant)["refreshToken"].reveal()
        user = int(self._users[row.user_key].partition("-")[2])
        newest = self._world.brokers.ctrader.services.tokens.grant_of_user(user)
        return newest is None or newest.refresh_token != kept

    # ------------------------------------------------------------ the brokers' word

    def truth_of(self, key: str) -> Any:
        """What the broker believes of the account that a record is about."""
        row = self.row_of(key)
        if row is None or row.account_id is None:
            return None
        truth = self._world.ledgers.truth(row.broker, row.account_id)
        return {kind: [(each["id"], each["units"]) for each in truth[kind]] for kind in ("positions", "orders")}

    def record_differs(self, row: StoredSession, keys: tuple[str, ...]) -> list[str]:
        """What is not true in any store's record of a session."""
        if row.account_id is None:
            return ["its account is not known"]
        truth = self._world.ledgers.truth(row.broker, row.account_id)
        found = []
        for store in self.layout_stores():
            for key in keys:
                raw = store.documents().get(key)
                record = None if raw is None else self._world.watcher.parsed(raw)
                found += [f"{store.name}: {text}" for text in differences(record, truth)]
        return found
