"""A real PACS for tests: Orthanc on loopback with its DICOMweb plugin, a proxy that cuts connections, and a client."""

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

import dicom_maker as maker
import pandas as pd
import requests
import yaml
from pydicom import dcmread

from analysis import tsv
from analysis.cli import main

PROGRAM = shutil.which("Orthanc") or ("/usr/sbin/Orthanc" if os.access("/usr/sbin/Orthanc", os.X_OK) else None)
PLUGINS = Path("/usr/share/orthanc/plugins")
START_S = 60
N_SLICES = 2
#: Bytes per study after which a connection is cut in the middle: about half of those that pass.
CUT_AFTER = {"get": 4_000, "move": 1_200, "web": 4_000}


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
    """A server that runs until :meth:`stop`; ``own_port`` is where it sends, encrypted if it is to be, by C-MOVE."""

    root: Path
    extra: dict[str, Any] = field(default_factory=dict)
    calls_by_tls: bool = False

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
            "DicomModalities": {
                "us": {
                    "AET": "SYNTHSR",
                    "Host": "127.0.0.1",
                    "Port": self.own_port,
                    "UseDicomTls": self.calls_by_tls,
                }
            },
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


def make_studies(folder: Path, n_studies: int) -> None:
    """Write studies of two slices of 2 kB; each patient has one in every hundred, a year apart."""
    for number in range(n_studies):
        tags = {**maker.T1, "AccessionNumber": f"A{number:03d}", "StudyDate": f"20{10 + number // 100}0304"}
        places = maker.positions(N_SLICES, 6.0)
        maker.write_series(folder, tags, patient=f"P{number % 100}", study=f"1.2.{number + 1}", places=places)


def in_the_way(way: str, server: Orthanc, **how: Any) -> tuple[Proxy, dict[str, object]]:
    """A proxy in the way of the images, and the settings that lead through it."""
    if way == "move":  # the PACS calls us
        own_port = free_port()
        return Proxy(own_port, port=server.own_port, **how), {"own_port": own_port}
    proxy = Proxy(server.dicom_port if way == "get" else server.http_port, **how)
    return proxy, {"port": proxy.port} if way == "get" else {"url": f"http://127.0.0.1:{proxy.port}/dicom-web"}


@dataclass
class Resumed:
    """What became of a fetching that was cut and done again."""

    n_cut: int
    n_files_first: int
    n_files: int
    is_resumed_without_fetching_twice: bool
    needed_s: float


class Client:
    """A folder to fetch into, with the files that say how and what."""

    def __init__(self, root: Path, server: Orthanc) -> None:
        self.root, self.server, self.out = root, server, root / "fetched"

    def fetch(self, way: str, lines: list[dict[str, str]], **changes: object) -> int:
        """Exit code of the command."""
        reached = {
            "get": {"host": "127.0.0.1", "port": self.server.dicom_port, "title": "ORTHANC"},
            "web": {"url": f"{self.server.address}/dicom-web"},
        }
        reached["move"] = {**reached["get"], "own_host": "127.0.0.1", "own_port": self.server.own_port}
        settings = {"retrieve": way, **reached[way], "files_per_second": 1000, "timeout_s": 20, **changes}
        (self.root / "pacs.yaml").write_text(yaml.safe_dump(settings))
        pd.DataFrame(lines).to_csv(self.root / "table.tsv", sep="\t", index=False)
        return main(["fetch", str(self.root / "pacs.yaml"), str(self.root / "table.tsv"), "--out", str(self.out)])

    def fetch_in_spite_of_a_cut(self, way: str, lines: list[dict[str, str]]) -> Resumed:
        """Fetch from a PACS that is gone in the middle, and again when it is back."""
        # C-MOVE: what is cut is the connection on which we ask; the images come by others.
        proxy, changes = in_the_way(
            "get" if way == "move" else way, self.server, cut_after=len(lines) * CUT_AFTER[way], dies=True
        )
        start = time.monotonic()
        try:
            code = self.fetch(way, lines, attempts=1, **changes)
        finally:
            proxy.close()
        first = {path: path.stat().st_mtime_ns for path in self.files}
        is_right = code == 69 and self.fetch(way, lines) == 0
        return Resumed(
            n_cut=proxy.n_cut,
            n_files_first=len(first),
            n_files=len(self.files),
            is_resumed_without_fetching_twice=is_right
            and all(path.stat().st_mtime_ns == moment for path, moment in first.items()),
            needed_s=time.monotonic() - start,
        )

    @property
    def table(self) -> pd.DataFrame:
        return tsv.read(self.out / "fetched.tsv")

    @property
    def files(self) -> list[Path]:
        return sorted(self.out.rglob("*.dcm"))


def same_as_stored(files: list[Path], server: Orthanc) -> bool:
    """Whether files have the pixels that were stored, from ``made`` beside the server's folder."""
    made = {path.name.removesuffix(".dcm"): path for path in (server.root.parent / "made").iterdir()}
    images = [dcmread(path) for path in files]
    return all(image.PixelData == dcmread(made[image.SOPInstanceUID]).PixelData for image in images)
