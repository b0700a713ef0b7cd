"""`data get`: downloads that are cut, refused, altered or mirrored, against a server of our own."""

import fcntl
import hashlib
import http.server
import shutil
import threading
import zipfile
from pathlib import Path

import fakes
import numpy as np
import pytest
import yaml

from resegment import download, fetch, ingest
from resegment.cli import data
from resegment.datasets import stare
from resegment.errors import UserError

HERE = Path(__file__).parent.parent / "data/registry"
RAW = Path("data/raw/stare")
PART = Path("data/raw/.downloads/stare/eyes.zip.part")
FILES = list(stare.files("im0001").values())
ORIGINALS = {f: np.random.default_rng(i).bytes(150_000) for i, f in enumerate(FILES)}


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at /good/; other first folders of the path misbehave in their own way."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.cuts = 1  # how many answers of /cut/ and /stubborn/ stop short
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def address(self, way: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{way}/eyes.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        wanted, way = self.headers.get("Range"), self.path.split("/")[1]
        self.server.requests.append((way, wanted))
        content = self.server.content
        if way == "absent":
            return self.send_error(404)
        if way == "moved":
            self.send_response(302)
            self.send_header("Location", self.server.address("good"))
            return self.end_headers()
        if way == "altered":
            content = bytes(len(content))
        start = int(wanted[6:-1]) if wanted and way != "stubborn" else 0  # bytes=N-
        if start >= len(content):
            return self.send_error(416)
        if way == "shifted" and start:
            start -= 1
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = way in ("cut", "stubborn") and self.server.cuts > 0
        self.server.cuts -= cut
        self.wfile.write(content[start : start + (len(content) - start) // 2] if cut
                         else content[start:])  # fmt: skip


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    shutil.copytree(HERE, "data/registry")
    monkeypatch.setattr(stare, "IDS", ("im0001",))
    lines = [f"{hashlib.sha256(d).hexdigest()}  {file}\n" for file, d in ORIGINALS.items()]
    Path("data/registry/stare.sha256").write_text("".join(lines))
    with zipfile.ZipFile("eyes.zip", "w") as archive:
        for file, data in ORIGINALS.items():
            archive.writestr(f"probing/{file}", data)
    content = Path("eyes.zip").read_bytes()
    Path("eyes.zip").unlink()
    server = Server(content)
    yield server
    server.shutdown()
    server.server_close()


def source(server: Server, url: str, name: str = "stare", **archive: str | None) -> None:
    """Let the registry of this test name `url` as the one archive of a set, STARE."""
    path = Path("data/registry/datasets.yaml")
    known = yaml.safe_load(path.read_text())
    checksum = {"sha256": hashlib.sha256(server.content).hexdigest()}
    known[name]["archives"] = [{"name": "eyes.zip", "url": url, **checksum, **archive}]
    path.write_text(yaml.safe_dump(known))


def complete() -> bool:
    return {str(p.relative_to(RAW)): p.read_bytes() for p in RAW.rglob("*.*")} == ORIGINALS


def test_get_downloads_verifies_and_adds_once(server):
    source(server, server.address("good"))
    result = fetch.get("stare")
    assert complete() and result["added"] == 2 and result["next"] == ""
    assert not PART.parent.exists()  # not stored twice
    again = fetch.get("stare")
    assert (again["added"], again["already"]) == (0, 2)
    assert server.requests == [("good", None)]


def test_images_that_came_after_the_set_was_ingested_are_named(server):
    source(server, server.address("good"))
    fetch.get("stare")
    manifest = Path("data/native/stare/manifest.csv")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(",".join(ingest.COLUMNS) + "\n")
    (found,) = fetch.status(["stare"])
    assert found["late"] == ["im0001"]
    told = "  1 image came after it was ingested: `dvc repro -f --single-item ingest@stare` takes"
    assert told in data._described(found)
    partial = found | {"next": "ask for the rest", "late": ["im0001"]}
    assert told in data._described(partial)
    assert fetch.get("stare")["added"] == 0 and len(server.requests) == 1
    with open(manifest, "a") as f:
        f.write("im0001,im0001,605,700" + "," * (len(ingest.COLUMNS) - 4) + "\n")
    assert fetch.status(["stare"])[0]["late"] == []


def test_md5_and_a_folder_to_keep_the_archive(server):
    source(server, server.address("good"), sha256=None, md5=hashlib.md5(server.content).hexdigest())
    fetch.get("stare", into="kept")
    assert complete() and Path("kept/eyes.zip").read_bytes() == server.content
    shutil.rmtree(RAW)
    fetch.get("stare", into="kept")
    assert complete() and len(server.requests) == 1


def test_cut_connection_is_resumed(server):
    source(server, server.address("cut"))
    fetch.get("stare")
    assert complete()
    (_, first), (_, second) = server.requests
    assert first is None and second.startswith("bytes=")
    assert 0 < int(second[6:-1]) <= len(server.content) // 2


def test_interrupted_download_goes_on_in_the_next_command(server):
    server.cuts = 99
    source(server, server.address("cut"))
    with pytest.raises(UserError, match="eyes.zip could not be downloaded.*run the command again"):
        fetch.get("stare")
    kept = PART.stat().st_size
    assert 0 < kept < len(server.content) and not RAW.exists()
    assert len(server.requests) == download.TRIES
    server.cuts = 0
    fetch.get("stare")
    assert complete() and server.requests[-1] == ("cut", f"bytes={kept}-")


def test_server_that_cannot_resume_is_read_from_the_start(server):
    source(server, server.address("stubborn"))
    fetch.get("stare")
    assert complete() and len(server.requests) == 2


def test_finished_part_is_only_verified(server):
    PART.parent.mkdir(parents=True)
    PART.write_bytes(server.content)
    source(server, server.address("good"))
    fetch.get("stare")
    assert complete() and server.requests == [("good", f"bytes={len(server.content)}-")]


def test_part_of_another_file_is_dropped(server):
    PART.parent.mkdir(parents=True)
    PART.write_bytes(b"of an older version")
    source(server, server.address("good"))
    fetch.get("stare")
    assert complete() and [wanted for _, wanted in server.requests] == ["bytes=19-", None]


def test_wrong_range_is_not_appended(server):
    PART.parent.mkdir(parents=True)
    PART.write_bytes(server.content[:1000])
    source(server, server.address("shifted"))
    with pytest.raises(UserError, match="another range"):
        fetch.get("stare")
    assert PART.read_bytes() == server.content[:1000]


def test_wrong_checksum(server):
    source(server, server.address("altered"))
    with pytest.raises(UserError, match="altered/eyes.zip: the checksum is not that of"):
        fetch.get("stare")
    assert not PART.exists() and not RAW.exists() and len(server.requests) == 1


@pytest.mark.parametrize("way", ["absent", "altered"])
def test_mirror_of_the_registry(server, way):
    source(server, server.address(way), mirror=server.address("good"))
    fetch.get("stare")
    assert complete() and [w for w, _ in server.requests] == [way, "good"]


def test_mirror_of_the_user_when_nobody_answers(server):
    source(server, "http://127.0.0.1:9/eyes.zip")  # the discard port: refused
    fetch.get("stare", mirror=f"http://127.0.0.1:{server.server_port}/good/")
    assert complete()


def test_no_source_at_all_names_every_failure(server):
    source(server, server.address("absent"), mirror="http://127.0.0.1:9/eyes.zip")
    with pytest.raises(UserError, match="404.*127.0.0.1.*9"):
        fetch.get("stare")


def test_without_a_checksum_only_https(server):
    source(server, server.address("good"), sha256=None)
    with pytest.raises(UserError, match="only https is trusted"):
        fetch.get("stare")
    assert not RAW.exists()


def test_checksum_lets_a_redirect_through(server):
    source(server, server.address("moved"))
    fetch.get("stare")
    assert complete()


def test_two_downloads_of_one_file(server):
    PART.parent.mkdir(parents=True)
    source(server, server.address("good"))
    with open(PART, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being downloaded by another process"):
            fetch.get("stare")
    fetch.get("stare")
    assert complete()


@pytest.mark.parametrize(("name", "words"), [
    ("drive", "training.zip and test.zip at https://drive.grand-challenge.*data add drive PATH"),
    ("monuseg", "monuseg.grand-challenge.org/Data.*data add monuseg PATH"),
])  # fmt: skip
def test_sets_that_cannot_be_downloaded_say_what_to_do(server, name, words):
    with pytest.raises(UserError, match=words):
        fetch.get(name)
    assert server.requests == []


def test_set_without_hashes_of_its_files_is_downloaded_and_listed(server):
    server.content = fakes.zipped(Path("isic"), fakes.isic2018_files(2)).read_bytes()
    source(server, server.address("good"), "isic2018")
    result = fetch.get("isic2018")
    assert (result["taken"], len(result["usable"]), result["next"]) == (4, 2, "")
    assert len(Path("data/registry/isic2018.sha256").read_text().splitlines()) == 6
    assert fetch.get("isic2018")["already"] == 4 and len(server.requests) == 1
