"""Secrets for a deployment, created with openssl."""

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_DAY = timedelta(days=1)


def write_secrets(directory: Path, database_url: str) -> None:
    """Creates the directory with a file for each secret in docker-compose.yml."""
    directory.mkdir()
    tls_key = ec.generate_private_key(ec.SECP256R1())
    files = {
        "secret_key": secrets.token_hex(32).encode(),
        "postgres_password": secrets.token_hex(32).encode(),
        "audit_database_url": database_url.encode(),
        "audit_key": _pem(ed25519.Ed25519PrivateKey.generate()),
        "tls_key": _pem(tls_key),
        "tls_certificate": _certificate(tls_key).public_bytes(Encoding.PEM),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content + b"\n")
        (directory / name).chmod(0o400)
    directory.chmod(0o500)


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Creates a self-signed certificate for this machine."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY)
    made = made.not_valid_after(now + _DAY).add_extension(here, critical=False)
    return made.sign(key, SHA256())
