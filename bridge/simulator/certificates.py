"""Throw-away certificates of the TLS port: a small CA and a leaf for localhost, 127.0.0.1 and ::1.

With a folder the CA is kept there as `ca.pem` for clients to trust; private keys are written 0600. Bad leaves
(expired, wrong host, unknown CA) serve fault N08. Must not be used for anything but loopback tests.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BAD_KINDS = ("expired", "wrong_host", "unknown_ca")
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign leaves."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Server contexts by kind: "good" and each of BAD_KINDS; `ca_path` is what clients trust."""

    ca_path: Path
    contexts: dict[str, ssl.SSLContext]


def make_certificates(folder: Path, now: dt.datetime) -> Certificates:
    """Write `ca.pem` and the leaves into `folder` (made if absent) and build a server context for each."""
    folder.mkdir(parents=True, exist_ok=True)
    ca = _authority("Pulse Bridge simulator CA", now)
    stranger = _authority("Unknown CA", now)
    ca_path = folder / "ca.pem"
    ca_path.write_bytes(ca.pem)
    leaves = {
        "good": (ca, ("localhost", "127.0.0.1", "::1"), now + 825 * _DAY),
        "expired": (ca, ("localhost", "127.0.0.1", "::1"), now - _DAY),
        "wrong_host": (ca, ("somewhere-else.invalid",), now + 825 * _DAY),
        "unknown_ca": (stranger, ("localhost", "127.0.0.1", "::1"), now + 825 * _DAY),
    }
    contexts = {}
    for kind, (signer, names, until) in leaves.items():
        path = folder / f"{kind}.pem"
        _write_private(path, _leaf(signer, names, until, now))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(path)
        contexts[kind] = context
    return Certificates(ca_path, contexts)


def _authority(common_name: str, now: dt.datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 400 * _DAY)
        .not_valid_after(now + 3650 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def _leaf(signer: Authority, names: tuple[str, ...], until: dt.datetime, now: dt.datetime) -> bytes:
    """Key and certificate in one PEM, valid from 300 days ago until `until`."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 300 * _DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
        .sign(signer.key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
