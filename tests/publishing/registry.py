"""An empty registry under Amazon ECR's host name on the loopback interface, with TLS and a password."""

from __future__ import annotations

import datetime
import fcntl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = Path("/etc/hosts")
CERTIFICATES = Path("/etc/docker/certs.d")
USER = "AWS"
CONFIGURATION = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:443", tls: {{certificate: {folder}/certificate.pem, key: {folder}/key.pem}}}}
auth: {{htpasswd: {{realm: ecr, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class Registry:
    """A running registry: its address and credentials."""

    host: str
    password: str
    certificate: Path

    def get(self, path: str, accept: str = "*/*") -> requests.Response:
        """Send an authorized request."""
        return requests.get(
            f"https://{self.host}/v2/{path}",
            auth=(USER, self.password),
            headers={"Accept": accept},
            verify=str(self.certificate),
            timeout=30,
        )

    def repositories(self) -> list[str]:
        """Names of the repositories with content."""
        names: list[str] = self.get("_catalog").json()["repositories"]
        return names

    def tags(self, repository: str) -> set[str]:
        """Tags in a repository."""
        return set(self.get(f"{repository}/tags/list").json()["tags"])


@contextmanager
def registry(program: Path, folder: Path, host: str, password: str) -> Iterator[Registry]:
    """Serve while the block runs; root only. The machine's host names and trusted certificates are restored afterwards.

    Args:
        program: `docker-registry`.
        folder: for all its data.
        host: its name, which resolves to this machine while it runs.
        password: of the user `AWS`.
    """
    certificate = _write_certificate(folder, host)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n", encoding="utf-8")
    (folder / "configuration.yml").write_text(CONFIGURATION.format(folder=folder), encoding="utf-8")
    command, quiet = (str(program), "serve", str(folder / "configuration.yml")), subprocess.DEVNULL
    with _hosts_to_itself() as hosts, subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        trusted = CERTIFICATES / host
        try:
            HOSTS.write_text(f"{hosts.rstrip()}\n127.0.0.1 {host}\n", encoding="utf-8")
            # Left by a killed run.
            trusted.mkdir(parents=True, exist_ok=True)
            (trusted / "ca.crt").write_bytes(certificate.read_bytes())
            running_registry = Registry(host, password, certificate)
            _wait_for(running_registry, server)
            yield running_registry
        finally:
            # First, so that the server is awaited even if the block raises.
            server.kill()
            HOSTS.write_text(hosts, encoding="utf-8")
            (trusted / "ca.crt").unlink(missing_ok=True)
            trusted.rmdir()


@contextmanager
def _hosts_to_itself() -> Iterator[str]:
    """Lock the machine's host names for one process at a time: tests of a file may run in several."""
    with HOSTS.open(encoding="utf-8") as names:
        fcntl.flock(names, fcntl.LOCK_EX)
        yield names.read()


def _wait_for(running_registry: Registry, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, "the registry did not start"
        try:
            assert running_registry.get("").status_code == 200
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.1)
        else:
            return


def _write_certificate(folder: Path, host: str) -> Path:
    """Write a self-signed certificate for a host, valid for a day, and its key next to it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(tz=datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = folder / "certificate.pem"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    unprotected = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, unprotected))
    return certificate
