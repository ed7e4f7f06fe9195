"""Keeps secrets out of every log line, whatever wrote it (DESIGN §1.4, faults.md S05).

Three nets, one behind the other: registered secrets, as they are, escaped, quoted for URLs, and inside of anything that
decodes from hex or base64; what stands where a credential stands (`Bearer …`, `access_token=…`); and what looks like
one (JWTs, long runs of random characters). Of a registered secret only its last characters, its length and a hash are
kept. What is configured is kept for ever; of what comes and goes (tokens, codes) the least recently registered is
forgotten when there is too much, and the other two nets are left. Invariants: memory is bounded; a line costs the same
however many secrets are registered.
"""

from __future__ import annotations

import binascii
import json  # noqa: TID251 (to know how others escape)
import re
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from core.secret import Secret

MASK = "***"
SHORTEST = 6  # characters; a shorter secret would blank ordinary words
SHORTEST_IN_PATH = 16  # characters; shorter words of a path are words
FORMS_KEPT = 60_000  # of what comes and goes, in each of two generations; a token has one form
SHORTEST_TOKEN = 12  # of what comes and goes, which callers choose: nobody shall blank our own words
RANDOM_LENGTH = 24  # characters from which a random run is cut although nobody knows it

_HINTS = ("bearer ", "basic ", "token", "secret", "password", "key", "://", "?", "&", "u0026")  # of the pattern below
_NAMED = r"""\\*["']?\s*[=:]\s*\\*["']?"""
_STANDS_LIKE_A_SECRET = re.compile(
    rf"""(?ix) (?: \b bearer \s+ | \b basic \s+
      | (?: token | client_?secret | password | api [_-]? key ) {_NAMED}
      | (?: [?&] | u0026 ) (?: code | state | ticket | key | secret | sig | signature ) =
      | :// [^\s/:@"]* : (?= [^\s/@"]+ @ ) )
      ( (?: [^\s"'&,}}@\\] | \\ (?!["'u]) )+ )"""
)
_DOTTED = re.compile(r"(?<![\w-])([\w-]++)\.[\w-]++(?:\.[\w-]*)?", re.ASCII)
_JWT_BEGINS = "eyJ"  # the base64 of {"
_RUN = re.compile(r"[A-Za-z0-9+/_-]{8,}")  # long enough to be the shortest secret in base64
_NAME = re.compile(r"[a-z_/-]+")  # no capital, no digit: base64 of 9 characters looks so once in 20,000
_SECRET_NAME = re.compile(r"(?i)pass|token|key|secret|sig")
_HEX = re.compile(r"[0-9A-Fa-f]{12,}")
_SHORT_KEY = re.compile(r"[0-9a-f]{12}")  # how logs name users
_PIECE = re.compile(r"[A-Z]+|[a-z]+|[0-9]+")
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/")

Span = tuple[int, int]


class Redactor:
    """Replaces secrets in text by `***`."""

    def __init__(self) -> None:
        self._lasting = _Endings()
        self._recent = _Endings()
        self._older = _Endings()

    def register_lasting(self, *secrets: Secret | None) -> None:
        """Remember the secrets of the configuration for ever, of addresses also what is secret in them."""
        for secret in secrets:
            for each in (secret, *_parts_of_address(secret)):
                for form in _forms(each):
                    self._lasting.add(form)

    def register(self, *secrets: Secret | None) -> None:
        """Remember secrets that come and go, tokens above all, until many others were registered since.

        Callers choose some of them: what is too short for a token, or names a user in the log, is not taken for one.
        """
        for secret in secrets:
            text = secret.reveal() if secret is not None else ""
            if len(text) < SHORTEST_TOKEN or _SHORT_KEY.fullmatch(text) or self._recent.holds(text):
                continue  # after a mass cut thousands are handed out again: their forms are known
            for form in _forms(secret):
                self._recent.add(form)
        if len(self._recent) >= FORMS_KEPT:
            self._older, self._recent = self._recent, _Endings()

    def redact(self, text: str) -> str:
        """Return `text` without any registered secret or anything that looks like a credential."""
        text = _without(text, self._spans(text))
        lowered = text.lower()
        if any(hint in lowered for hint in _HINTS):
            text = _STANDS_LIKE_A_SECRET.sub(lambda match: match[0][: match.start(1) - match.start()] + MASK, text)
        if _JWT_BEGINS in text:
            text = _DOTTED.sub(lambda match: MASK if _JWT_BEGINS in match[1] else match[0], text)
        return _RUN.sub(self._judge_run, text)

    def _judge_run(self, match: re.Match[str]) -> str:
        run = match[0]
        if _NAME.fullmatch(run):
            return run
        if any(self._spans(decoded) for decoded in _decoded(run)):
            return MASK
        return "/".join(map(_unless_random, run.split("/"))) if len(run) >= RANDOM_LENGTH else run

    def _spans(self, text: str) -> list[Span]:
        """Where registered secrets stand."""
        windows = [text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1)]
        known = (self._lasting, self._recent, self._older)
        return sorted(span for endings in known for span in endings.find(text, windows))


class _Endings:
    """Texts, known by their last characters, length and hash."""

    def __init__(self) -> None:
        self._lengths: dict[str, tuple[int, ...]] = {}  # by the last SHORTEST characters
        self._hashes: set[int] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, text: str) -> None:
        self._hashes.add(hash(text))
        ending, length = text[-SHORTEST:], len(text)
        lengths = self._lengths.get(ending, ())
        if length not in lengths:
            self._lengths[ending] = (*lengths, length)

    def holds(self, text: str) -> bool:
        return hash(text) in self._hashes

    def find(self, text: str, windows: Sequence[str]) -> Iterator[Span]:
        """`windows`: every SHORTEST characters of the text."""
        if self._lengths.keys().isdisjoint(windows):
            return
        for at, window in enumerate(windows):
            end = at + SHORTEST
            for length in self._lengths.get(window, ()):
                if length <= end and hash(text[end - length : end]) in self._hashes:
                    yield end - length, end


def _without(text: str, spans: Sequence[Span]) -> str:
    """The text with each stretch that the spans cover, together, masked."""
    parts: list[str] = []
    covered = 0
    for start, end in spans:
        if start > covered or not parts:
            parts += (text[covered:start], MASK)
        covered = max(covered, end)
    return "".join([*parts, text[covered:]])


def _unless_random(word: str) -> str:
    """The word; masked when it is a long mixture of capitals, letters and digits that no name is."""
    if len(word) < RANDOM_LENGTH:
        return word
    pieces = _PIECE.findall(word)
    numbers = sum(piece.isdigit() for piece in pieces)
    mixed = any(map(str.isupper, pieces)) and any(map(str.islower, pieces)) and numbers >= 2
    return MASK if mixed and len(pieces) * 3 > len(word) else word


def _decoded(run: str) -> Iterator[str]:
    """What a run of letters and digits may stand for, byte by character. It may begin and end with something else."""
    for match in _HEX.finditer(run):
        for first in (0, 1):
            digits = match[0][first:]
            yield bytes.fromhex(digits[: len(digits) & ~1]).decode("latin-1")
    standard = run.translate(_TO_STANDARD_BASE64)
    for first in range(4):
        piece = standard[first:]
        piece = piece[:-1] if len(piece) % 4 == 1 else piece
        yield binascii.a2b_base64(piece + "=" * (-len(piece) % 4)).decode("latin-1")


def _parts_of_address(secret: Secret | None) -> Iterator[Secret]:
    """What is secret by itself in a URL: the password, values that a name calls so, and on the web, where an address
    often is the key, its user, its path and the long words of that."""
    try:
        url = urlsplit(secret.reveal() if secret is not None else "")
    except ValueError:
        return
    if not url.scheme or not url.netloc:
        return
    parts = [url.password or "", *(value for name, value in parse_qsl(url.query) if _SECRET_NAME.search(name))]
    if url.scheme in ("http", "https"):
        path = url.path.strip("/")
        parts += [url.username or "", *(word for word in (path, *path.split("/")) if len(word) >= SHORTEST_IN_PATH)]
    yield from (Secret(form) for part in parts for form in {part, unquote(part)})


def _forms(secret: Secret | None) -> set[str]:
    """The ways to write a secret that no decoding undoes; for a token of letters and digits it is one."""
    plain = secret.reveal() if secret is not None else ""
    if len(plain) < SHORTEST:
        return set()
    forms = {
        *(twice for once in _escaped(plain) for twice in _escaped(once)),  # such as the repr of an error in a JSON line
        *(quote(plain, safe=safe, errors="replace") for safe in ("", "/")),
        quote_plus(plain, errors="replace"),
        plain.encode("utf-8", "surrogatepass").decode("latin-1"),  # as decoded bytes are searched
    }
    return {form for form in forms if len(form) >= SHORTEST}


def _escaped(text: str) -> set[str]:
    """A text as Python and JSON show it inside of quotes, whichever quotes those are."""
    shown = {text, repr(text)[1:-1], repr(text + "'\"")[1:-4], ascii(text)[1:-1], json.dumps(text)[1:-1]}
    return shown | {json.dumps(text, ensure_ascii=False)[1:-1], text.replace("/", "\\/")}


REDACTOR = Redactor()
"""The one redactor of the process; whoever reads a secret from outside registers it here."""
