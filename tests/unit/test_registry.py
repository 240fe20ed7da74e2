"""Weights by name: fetching from a server that breaks off or from a mirror, and refusing other files."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from synthsr import cli
from synthsr.errors import ConfigurationError, DataError, ToolError
from synthsr.weights import locate, registry

CONTENT = np.random.default_rng(1).bytes(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT from the byte asked for; breaks off in the middle of its first answers."""

    breaks = 2
    asked: list[str | None]

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.headers.get("Range"))
        if self.path.startswith("/elsewhere/"):
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        rest = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if kind.breaks > 0:
            kind.breaks -= 1
            rest = rest[:100_000]
        self.wfile.write(rest)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    handler = type("OneServer", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHSR_RESOURCES", str(tmp_path / "resources"))
    row = [
        "net",
        "1",
        "net.safetensors",
        hashlib.sha256(CONTENT).hexdigest(),
        "Apache-2.0",
        "http://127.0.0.1:9/x",
        "test",
    ]
    path = tmp_path / "registry.tsv"
    path.write_text("name\tversion\tfile\tsha256\tlicence\tsource\tpurpose\n" + "\t".join(row) + "\n")
    return path


def test_fetch_goes_on_where_the_server_broke_off(server: tuple[str, type[Server]], table: Path) -> None:
    address, handler = server
    entry = registry.registered(table)["net"]
    path = registry.fetch(entry, address)
    assert path.read_bytes() == CONTENT
    assert handler.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]
    registry.fetch(entry, address)
    assert len(handler.asked) == 3, "a sound file is not fetched again"


def test_a_later_call_takes_up_what_an_earlier_one_left(server: tuple[str, type[Server]], table: Path) -> None:
    address, handler = server
    handler.breaks = 0
    entry = registry.registered(table)["net"]
    entry.path.parent.mkdir(parents=True)
    entry.path.with_name(f".part-{entry.sha256}").write_bytes(CONTENT[:123_456])
    assert registry.fetch(entry, address).read_bytes() == CONTENT
    assert handler.asked == ["bytes=123456-"]


def test_offline_from_a_folder(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "net.safetensors").write_bytes(CONTENT)
    given = ["--registry", str(table)]
    assert cli.main(["weights", "fetch", "net", "--mirror", str(tmp_path / "usb"), *given]) == 0
    assert cli.main(["weights", "verify", *given]) == 0
    assert "net\tsound" in capsys.readouterr().out
    path = registry.registered(table)["net"].path
    path.write_bytes(CONTENT[:-1])
    assert cli.main(["weights", "verify", "net", *given]) == 65
    assert "net: not what the registry says" in capsys.readouterr().err


def test_another_file_is_refused(table: Path, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(CONTENT[::-1])
    entry = registry.registered(table)["net"]
    with pytest.raises(DataError, match=r"SHA-256 is \w+, registered is \w+; nothing was kept"):
        registry.fetch(entry, str(tmp_path))
    assert not list(entry.path.parent.iterdir())


def test_no_connection_says_what_to_do(table: Path) -> None:
    with pytest.raises(ToolError, match=r"give --mirror FOLDER with a copy of net\.safetensors"):
        registry.fetch(registry.registered(table)["net"])


def test_missing_file_on_the_mirror(server: tuple[str, type[Server]], table: Path) -> None:
    address, handler = server
    with pytest.raises(ToolError, match="404"):
        registry.fetch(registry.registered(table)["net"], f"{address}/elsewhere")
    assert len(handler.asked) == 1


def test_shipped_weights_are_what_the_registry_says() -> None:
    for name, entry in registry.registered().items():
        if entry.source == "shipped":
            assert registry.is_sound(entry), name
            assert locate(name) == entry.path


def test_card_speaks_of_the_shipped_weights() -> None:
    """The figures of the model card were measured on these very files."""
    folder = Path(registry.__file__).parent
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for name in ("segmentation", "synthsr"):
        assert measured[f"{name}_sha256"] == registry.registered()[name].sha256


def test_unknown_name() -> None:
    with pytest.raises(ConfigurationError, match="neither a weights file nor one of the registered weights"):
        locate("nothing")
    assert cli.main(["weights", "fetch", "nothing"]) == 78
