"""A real PACS for tests: Orthanc on loopback with its DICOMweb plugin, and a proxy that can cut its connections."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

PROGRAM = shutil.which("Orthanc") or ("/usr/sbin/Orthanc" if os.access("/usr/sbin/Orthanc", os.X_OK) else None)
PLUGINS = Path("/usr/share/orthanc/plugins")
START_S = 60


def lacking() -> str:
    """What is not installed, or empty."""
    if not PROGRAM:
        return "Orthanc is not installed (Debian packages orthanc and orthanc-dicomweb)"
    if not list(PLUGINS.glob("libOrthancDicomWeb*")):
        return f"Orthanc's DICOMweb plugin is not in {PLUGINS} (Debian package orthanc-dicomweb)"
    return ""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Orthanc:
    """A server that runs until :meth:`stop`; ``own_port`` is where it sends what is asked for by C-MOVE."""

    root: Path
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http_port, self.dicom_port, self.own_port = free_port(), free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.http_port}"
        self.root.mkdir()
        settings = {
            "Name": "test",
            "StorageDirectory": str(self.root / "storage"),
            "IndexDirectory": str(self.root / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            **{f"DicomAlwaysAllow{verb}": True for verb in ("Echo", "Store", "Find", "Get", "Move")},
            "DicomModalities": {"us": ["SYNTHSR", "127.0.0.1", self.own_port]},
            "Plugins": [str(PLUGINS)],
            **self.extra,
        }
        (self.root / "orthanc.json").write_text(json.dumps(settings))
        with (self.root / "log.txt").open("w") as log:
            self.process = subprocess.Popen([PROGRAM, self.root / "orthanc.json"], stdout=log, stderr=log)
        begin = time.monotonic()
        while True:
            assert self.process.poll() is None, (self.root / "log.txt").read_text()
            try:
                self.ask("system")
                return
            except requests.ConnectionError:
                assert time.monotonic() - begin < START_S, (self.root / "log.txt").read_text()
                time.sleep(0.1)

    def ask(self, path: str) -> Any:
        return requests.get(f"{self.address}/{path}", timeout=START_S).json()

    def store(self, paths: Iterable[Path]) -> None:
        with requests.Session() as session:
            for path in paths:
                answer = session.post(f"{self.address}/instances", data=path.read_bytes())
                assert answer.status_code == 200, answer.text

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Proxy:
    """Passes connections on to a port; cuts each of the first ``n_cuts`` after so many bytes, and may then be gone.

    With a certificate and its key it is encrypted on its side: Debian's Orthanc crashes when it is to speak HTTPS.
    """

    def __init__(
        self,
        target: int,
        *,
        port: int = 0,
        n_cuts: int = 1,
        cut_after: int = 0,
        dies: bool = False,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.target, self.n_cuts, self.cut_after, self.dies = target, n_cuts, cut_after, dies
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self.context and certificate:
            self.context.load_cert_chain(*certificate)
        self.n_cut = 0
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        try:
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        budget = [self.cut_after if self.n_cut < self.n_cuts else None]
        lock = threading.Lock()

        def pump(source: socket.socket, drain: socket.socket) -> None:
            try:
                while data := source.recv(4096):
                    with lock:
                        if budget[0] is not None:
                            budget[0] -= len(data)
                            if budget[0] < 0:
                                self.n_cut += 1
                                if self.dies:
                                    self.close()
                                break
                    drain.sendall(data)
            except OSError:
                pass
            for end in (source, drain):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threads = [
            threading.Thread(target=pump, args=ends, daemon=True) for ends in ((client, server), (server, client))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        server.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that trusts itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
