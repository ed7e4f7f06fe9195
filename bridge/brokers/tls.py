"""The TLS context of every connection to a broker, sockets and HTTP alike: one for the process.

One per connection would cost some 17 ms and 900 KiB each: `./scripts/bench --rows runtime` measures it.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

from core.errors import ConfigurationError


@lru_cache(maxsize=4)
def shared_tls(ca_file: str | None) -> ssl.SSLContext:
    """The context that also trusts the certificates in `ca_file`. Raises ConfigurationError."""
    try:
        context = ssl.create_default_context()
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificate file {ca_file} cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
