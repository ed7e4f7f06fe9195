"""The REST interface of a Supabase project over a real Postgres: enough of PostgREST and its gateway for the `supabase`
client.

Role and claims are set per request from the token, so that grants, policies and error codes are Postgres's own. Runs in
a thread with a loop of its own, whatever the test does with its loop. `fault` may answer in place of the database.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import asyncpg
import jwt
from aiohttp import web

JWT_SECRET = "a-jwt-secret-of-the-project-at-least-32-characters"
SECRET_KEY = "sb_secret_0123456789abcdefghijkl"  # the gateway makes the service role of it
WORDS = {"select", "order", "limit", "offset", "columns", "on_conflict"}
WINDOW = ("limit", "offset")
OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike"}
PATH = re.compile(r"(->>?)")

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class Problem(Exception):
    """An error as PostgREST answers it."""

    status: int
    code: str
    message: str
    details: str | None = None

    def answer(self) -> web.Response:
        body = {"code": self.code, "details": self.details, "hint": None, "message": self.message}
        return web.json_response(body, status=self.status)


class PostgrestServer:
    """One project. `url` is its SUPABASE_URL; `requests` lists method and path of what was asked."""

    def __init__(self, database_url: str, *, port: int = 0) -> None:
        self.fault: Fault | None = None
        self.requests: list[str] = []
        self.port = port
        self.database_url = database_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgrest", daemon=True)
        self._runner: web.AppRunner | None = None
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def anon_key(self) -> str:
        return self.token("anon")

    @property
    def service_key(self) -> str:
        return self.token("service_role")

    def token(self, role: str, sub: str | None = None, *, expires_in_s: int = 3600, secret: str = JWT_SECRET) -> str:
        """A token as the project's auth makes it."""
        claims: dict[str, Any] = {"role": role, "aud": role, "exp": int(time.time()) + expires_in_s}
        if sub is not None:
            claims["sub"] = sub
        return jwt.encode(claims, secret, algorithm="HS256")

    def __enter__(self) -> Self:
        self._thread.start()
        self._in_thread(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_thread(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _in_thread(self, work: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.result(20)

    async def _start(self) -> None:
        self._pool = await asyncpg.create_pool(self.database_url, min_size=0, max_size=8, statement_cache_size=0)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/rest/v1/rpc/{function}", self._serve)
        app.router.add_route("*", "/rest/v1/{table}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._pool is not None:
            self._pool.terminate()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    # ------------------------------------------------------------ requests

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.fault is not None and (answer := await self.fault(request)) is not None:
            return answer
        try:
            return await self._answer(request, _claims(request))
        except Problem as problem:
            return problem.answer()
        except asyncpg.PostgresError as error:
            return _problem(error, anonymous=_claims(request).get("role") == "anon").answer()

    async def _answer(self, request: web.Request, claims: dict[str, Any]) -> web.StreamResponse:
        assert self._pool is not None
        async with (
            self._pool.acquire() as connection,
            connection.transaction(readonly=request.method in {"GET", "HEAD"}),
        ):
            await connection.execute("select set_config('search_path', 'public', true)")
            await connection.execute("select set_config('request.jwt.claims', $1, true)", json.dumps(claims))
            if "function" in request.match_info:
                sql, arguments = await _call(connection, request)
            else:
                sql, arguments = await _statement(connection, request)
            # from here on as the caller; the lookups above are PostgREST's schema cache
            await connection.execute(f"set local role {_name(str(claims['role']))}")
            answer = await connection.fetchval(sql, *arguments)
        if answer is None or "return=minimal" in request.headers.get("Prefer", ""):
            return web.Response(status=201 if request.method == "POST" and "table" in request.match_info else 204)
        status = 201 if request.method == "POST" and "table" in request.match_info else 200
        return web.Response(text=answer, content_type="application/json", status=status)


def _claims(request: web.Request) -> dict[str, Any]:
    """The caller: checked as gateway and PostgREST do."""
    key = request.headers.get("apikey", "")
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not key:
        raise Problem(401, "", "No API key found in request")
    if token in {"", key} and key == SECRET_KEY:
        return {"role": "service_role"}
    try:
        jwt.decode(key, JWT_SECRET, algorithms=["HS256"], options={"verify_aud": False})
    except jwt.PyJWTError:
        if key != SECRET_KEY:
            raise Problem(401, "", "Invalid API key") from None
    try:
        claims: dict[str, Any] = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], options={"verify_aud": False})
    except jwt.ExpiredSignatureError:
        raise Problem(401, "PGRST303", "JWT expired") from None
    except jwt.PyJWTError:
        raise Problem(401, "PGRST301", "No suitable key or wrong key type") from None
    return claims


def _problem(error: asyncpg.PostgresError, *, anonymous: bool) -> Problem:
    code = error.sqlstate or "XX000"
    by_code = {"42501": 401 if anonymous else 403, "23505": 409, "23503": 409, "25006": 405, "42P01": 404, "42883": 404}
    by_class = {"40": 500, "53": 503, "57": 500, "XX": 500, "08": 503}
    status = by_code.get(code) or by_class.get(code[:2], 400)
    return Problem(status, code, str(error.args[0]), getattr(error, "detail", None))


# ---------------------------------------------------------------- functions


async def _call(connection: Any, request: web.Request) -> tuple[str, list[str]]:
    """The call of a function by the names of its arguments."""
    function = request.match_info["function"]
    given = await request.json() if request.method == "POST" else dict(request.query)
    found = await connection.fetch(
        """
        select coalesce(p.proargnames, '{}') as names, p.pronargdefaults as defaults, p.proretset as many,
          p.prorettype = 'void'::regtype as nothing,
          array(select format_type(t, null) from unnest(p.proargtypes) with ordinality u(t, n) order by n) as types
        from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = $1
        """,
        function,
    )
    for row in found:
        count = len(row["types"])
        names = list(row["names"])[:count]
        needed = names[: count - row["defaults"]]
        if set(needed) <= set(given) <= set(names):
            types = dict(zip(names, row["types"], strict=True))
            return _call_sql(function, {name: types[name] for name in given}, row), [json.dumps(given)]
    wanted = ", ".join(sorted(given)) or "no parameters"
    message = f"Could not find the function public.{function}({wanted}) in the schema cache"
    raise Problem(404, "PGRST202", message)


def _call_sql(function: str, types: dict[str, str], row: Any) -> str:
    passed = ", ".join(f"{_name(name)} => a.{_name(name)}" for name in types)
    record = ", ".join(f"{_name(name)} {kind}" for name, kind in types.items())
    source = f"json_to_record($1::json) a({record})" if types else "(select $1::text) a"
    call = f"public.{_name(function)}({passed})"
    if row["many"]:
        return f"select coalesce(json_agg(r), '[]')::text from {source}, lateral {call} r"
    if row["nothing"]:
        return f"select nullif(({call})::text, '') from {source}"
    return f"select coalesce(to_json({call})::text, 'null') from {source}"


# ---------------------------------------------------------------- tables


async def _statement(connection: Any, request: web.Request) -> tuple[str, list[str]]:
    """A request on a table or view as one statement that answers a JSON array."""
    table = request.match_info["table"]
    if await connection.fetchval("select to_regclass($1)", f"public.{_name(table)}") is None:
        raise Problem(404, "PGRST205", f"Could not find the table 'public.{table}' in the schema cache")
    target = f"public.{_name(table)}"
    columns = _columns(request.query.get("select", "*"))
    where = _where(request)
    arguments: list[str] = []
    match request.method:
        case "GET" | "HEAD":
            limit = "".join(
                f" {word} {int(request.query[word])}" for word in ("limit", "offset") if word in request.query
            )
            inner = f"select {columns} from {target}{where}{_order(request)}{limit}"
        case "POST":
            inner = f"{await _insert(request, target)} returning {columns}"
            arguments = [await request.text()]
        case "PATCH":
            names = list(await request.json())
            body = f"json_populate_record(null::{target}, $1::json)"
            sets = ", ".join(f"{_name(name)} = (select b.{_name(name)} from {body} b)" for name in names)
            inner = f"update {target} set {sets}{where} returning {columns}"
            arguments = [await request.text()]
        case "DELETE":
            inner = f"delete from {target}{where} returning {columns}"
        case _:
            raise Problem(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
    return f"with q as ({inner}) select coalesce(json_agg(q), '[]')::text from q", arguments


async def _insert(request: web.Request, target: str) -> str:
    body = await request.json()
    rows = body if isinstance(body, list) else [body]
    named = re.findall(r'"([^"]+)"|([^",]+)', request.query.get("columns", ""))
    names = [quoted or plain for quoted, plain in named] or sorted({name for row in rows for name in row})
    columns = ", ".join(map(_name, names))
    reader = "json_populate_recordset" if isinstance(body, list) else "json_populate_record"
    sql = f"insert into {target} ({columns}) select {columns} from {reader}(null::{target}, $1::json)"
    prefer = request.headers.get("Prefer", "")
    conflict = ", ".join(map(_name, request.query.get("on_conflict", "").split(",")))
    if "resolution=merge-duplicates" in prefer:
        sets = ", ".join(f"{_name(name)} = excluded.{_name(name)}" for name in names)
        sql += f" on conflict ({conflict}) do update set {sets}"
    elif "resolution=ignore-duplicates" in prefer:
        sql += f" on conflict ({conflict}) do nothing"
    return sql


def _columns(select: str) -> str:
    """`a,b::text,alias:c->>d` as a list of columns."""
    found = []
    for item in select.split(","):
        alias, _, rest = item.strip().rpartition(":") if "::" not in item else ("", "", item.strip())
        path, _, cast = rest.partition("::")
        if path == "*":
            found.append("*")
            continue
        name = alias or re.split(r"->>?", path)[-1]
        found.append(f"({_path(path)}){'::' + _type(cast) if cast else ''} as {_name(name)}")
    return ", ".join(found)


def _where(request: web.Request) -> str:
    tests = []
    for column, value in request.query.items():
        if column in WORDS:
            continue
        negated = value.startswith("not.")
        operator, _, operand = value.removeprefix("not.").partition(".")
        tests.append(f"{'not ' if negated else ''}({_test(_path(column), operator, operand)})")
    return f" where {' and '.join(tests)}" if tests else ""


def _test(column: str, operator: str, operand: str) -> str:
    if operator == "in":
        items = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,]+)', operand.removeprefix("(").removesuffix(")"))
        listed = ", ".join(_literal(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain) for quoted, plain in items)
        return f"{column} in ({listed})" if listed else "false"
    if operator == "is" and operand in {"null", "true", "false"}:
        return f"{column} is {operand}"
    if operator not in OPERATORS:
        raise Problem(400, "PGRST100", f"unknown operator {operator}")
    if operator in {"like", "ilike"}:
        operand = operand.replace("*", "%")
    return f"{column} {OPERATORS[operator]} {_literal(operand)}"


def _order(request: web.Request) -> str:
    terms = []
    for term in filter(None, request.query.get("order", "").split(",")):
        column, *words = term.split(".")
        terms.append(f"{_path(column)} {'desc' if 'desc' in words else 'asc'}")
    return f" order by {', '.join(terms)}" if terms else ""


def _path(column: str) -> str:
    """`value->a->>b` with its first part as a column."""
    first, *rest = PATH.split(column)
    return _name(first) + "".join(part if part.startswith("->") else _literal(part) for part in rest)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _type(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_ ]+(\[\])?", name):
        raise Problem(400, "PGRST100", f"not a type: {name}")
    return name
