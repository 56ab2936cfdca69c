"""Names to files: finding, checking, downloading from a server of the test's own, unpacking."""

import hashlib
import http.server
import io
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from cmf import catalogue
from cmf.catalogue import ENTRIES, Entry, check, entry, find, get, rows, unpack

GOOD = bytes(range(256)) * 4000  # about 1 MB


class Answers(http.server.BaseHTTPRequestHandler):
    """good: the whole file; cut: half of it under the full length; wrong: other bytes; archive: a zip."""

    def do_GET(self):
        kind = self.path.strip("/")
        if kind == "absent":
            self.send_error(404)
            return
        body = {"wrong": GOOD[::-1], "archive": self.server.archive}.get(kind, GOOD)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)
        self.server.asked.append(kind)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        running.asked, running.archive = [], zipped({"a/one.txt": b"1", "two.txt": b"22"})
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CMF_DATA", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def zipped(files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as store:
        for name, content in files.items():
            store.writestr(name, content)
    return buffer.getvalue()


def put(monkeypatch, server, *kinds, **changes) -> None:
    """An entry "made" with the server's addresses."""
    place = "made" if changes.get("unpack") else "made.bin"
    wanted = Entry("data", place, "MIT", "nobody", "one file", sha256=hashlib.sha256(GOOD).hexdigest(), how="by hand",
                   address=tuple(f"http://127.0.0.1:{server.server_port}/{kind}" for kind in kinds))
    monkeypatch.setitem(ENTRIES, "made", replace(wanted, **changes))


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_download_is_checked_and_kept(cache, server, monkeypatch):
    put(monkeypatch, server, "good")
    path = get("made", progress=False)
    assert path == cache / "made.bin" and path.read_bytes() == GOOD and left(cache) == ["made.bin"]
    assert get("made", progress=False) == path and server.asked == ["good"], "the second time nothing is fetched"


def test_first_digits_of_a_checksum_suffice(cache, server, monkeypatch):
    put(monkeypatch, server, "good", sha256=hashlib.sha256(GOOD).hexdigest()[:8])
    assert get("made", progress=False).read_bytes() == GOOD


@pytest.mark.parametrize("kind, error, words", [
    ("cut", OSError, "made could not be downloaded, nothing was kept"),
    ("wrong", ValueError, "nothing was kept.*sha256 .* expected"),
    ("absent", OSError, "nothing was kept.*404"),
])
def test_bad_download_leaves_nothing(cache, server, monkeypatch, kind, error, words):
    put(monkeypatch, server, kind)
    with pytest.raises(error, match=words):
        get("made", progress=False)
    assert left(cache) == []


def test_next_address_is_tried_and_a_stale_part_is_no_obstacle(cache, server, monkeypatch):
    put(monkeypatch, server, "absent", "cut", "wrong", "good")
    cache.mkdir()
    (cache / "made.bin.part").write_bytes(b"from a run that was killed")
    assert get("made", progress=False).read_bytes() == GOOD and left(cache) == ["made.bin"]


def test_interruption_leaves_nothing(cache, server, monkeypatch):
    put(monkeypatch, server, "good")

    def stop(path, expected):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "_compare", stop)
    with pytest.raises(KeyboardInterrupt):
        get("made", progress=False)
    assert left(cache) == []


@pytest.mark.parametrize("unpack", [False, True])
def test_two_at_once_get_one_file(cache, server, monkeypatch, unpack):
    digest = hashlib.sha256(server.archive if unpack else GOOD).hexdigest()
    put(monkeypatch, server, "archive" if unpack else "good", unpack=unpack, sha256=digest)
    found = []
    threads = [threading.Thread(target=lambda: found.append(get("made", progress=False))) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [cache / ("made" if unpack else "made.bin")] * 3
    assert len(server.asked) == 1 and not list(cache.glob("*.part"))


def test_an_archive_left_by_a_killed_run_is_removed(cache, server, monkeypatch):
    put(monkeypatch, server, "archive", unpack=True, sha256=hashlib.sha256(server.archive).hexdigest())
    get("made", progress=False)
    (cache / "made.download.part").touch()
    get("made", progress=False)
    assert not list(cache.glob("*.part"))


def test_archive_is_fetched_and_unpacked(cache, server, monkeypatch):
    put(monkeypatch, server, "archive", unpack=True, sha256=hashlib.sha256(server.archive).hexdigest())
    path = get("made", progress=False)
    assert left(cache) == ["SHA256SUMS", "a", "made", "one.txt", "two.txt"] and (path / "a/one.txt").exists()
    (path / "two.txt").write_bytes(b"23")
    with pytest.raises(ValueError, match=r"1 of 2 files missing or changed: two\.txt"):
        check("made")


def test_changed_file_is_refused(cache, server, monkeypatch):
    put(monkeypatch, server, "good")
    get("made", progress=False).write_bytes(GOOD[:-1])
    with pytest.raises(ValueError, match=r"made\.bin: sha256 .*; it is not the file that the catalogue names"):
        get("made", progress=False)


def test_by_hand_and_unknown(cache):
    with pytest.raises(FileNotFoundError, match="ztf_alerts is not here; looked for .*To obtain it: download a night"):
        get("ztf_alerts")
    with pytest.raises(FileNotFoundError, match="To obtain it: python -m cmf data get inception_v3"):
        find("inception_v3")
    with pytest.raises(ValueError, match="unknown name 'deepspac'; did you mean deepspace"):
        find("deepspac")


def test_folders_are_searched_in_order(cache, tmp_path, monkeypatch):
    (cache / "ztf_alerts").mkdir(parents=True)
    assert find("ztf_alerts") == check("ztf_alerts") == cache / "ztf_alerts"
    monkeypatch.setenv("CMF_DATA", str(tmp_path / "data"))
    (tmp_path / "data/ztf_alerts").mkdir(parents=True)
    assert find("ztf_alerts") == tmp_path / "data/ztf_alerts"
    hub = tmp_path / "torch/hub/checkpoints"
    hub.mkdir(parents=True)
    (hub / entry("inception_v3").place).write_bytes(b"x")
    assert find("inception_v3").parent == hub
    with pytest.raises(ValueError, match="expected 0cc3c7bd"):
        check("inception_v3")


def test_pack_with_checksums(cache, monkeypatch):
    folder = cache / "pack"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    pack = Entry("data", "pack", "MIT", "nobody", "a.txt", sha256="0" * 64, how="by hand")
    monkeypatch.setitem(ENTRIES, "pack", pack)
    with pytest.raises(ValueError, match="without its SHA256SUMS; obtain the set again"):
        check("pack")
    sums = f"{hashlib.sha256(b'a').hexdigest()}  ./a.txt\n{'0' * 64}  ./gone.txt\n"
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(ValueError, match="SHA256SUMS: sha256 .* expected 0000"):
        check("pack")
    known = replace(pack, sha256=hashlib.sha256(sums.encode()).hexdigest())
    monkeypatch.setitem(ENTRIES, "pack", known)
    with pytest.raises(ValueError, match=r"1 of 2 files missing or changed: \./gone\.txt"):
        check("pack")


def test_real_packs_agree_where_they_are():
    here = [row["name"] for row in rows() if row["kind"] == "data" and row["path"]]
    if not here:
        pytest.skip("CMF_DATA names no folder with data sets")
    for name in here:
        assert check(name).exists()


def test_entries_say_enough():
    for name, wanted in ENTRIES.items():
        assert wanted.licence and wanted.citation and wanted.layout, name
        assert wanted.sha256 or wanted.how, name
    assert {row["name"] for row in rows()} == set(ENTRIES)


@pytest.mark.parametrize("changes, words", [
    (dict(kind="song"), "x: kind 'song', expected data, weights or generated"),
    (dict(), "x: without sha256 an entry must say how"),
    (dict(sha256="123"), "x: sha256 of 3 digits, expected 8 to 64"),
])
def test_bad_entry(changes, words):
    with pytest.raises(ValueError, match=words):
        Entry(**(dict(kind="data", place="x", licence="MIT", citation="nobody", layout="x") | changes))


def tarred(path, *members) -> None:
    """members: (name, content) or (name, type, linkname)."""
    with tarfile.open(path, "w:gz") as store:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if len(rest) == 1:
                info.size = len(rest[0])
                store.addfile(info, io.BytesIO(rest[0]))
            else:
                info.type, info.linkname = rest
                store.addfile(info)


def test_tar_with_inner_link(tmp_path):
    tarred(tmp_path / "a.tgz", ("d/one.txt", b"1"), ("two", tarfile.SYMTYPE, "d/one.txt"))
    out = unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (out / "two").read_bytes() == b"1" and "d/one.txt" in (out / "SHA256SUMS").read_text()
    with pytest.raises(FileExistsError, match="out exists; remove it"):
        unpack(tmp_path / "a.tgz", out)


@pytest.mark.parametrize("member, words", [
    (("/etc/evil", b"x"), "/etc/evil would leave the target folder"),
    (("../evil", b"x"), r"\.\./evil would leave the target folder"),
    (("a/../../evil", b"x"), "would leave the target folder"),
    (("link", tarfile.SYMTYPE, "../outside"), r"link, a link to \.\./outside would leave"),
    (("link", tarfile.SYMTYPE, "/etc/passwd"), "link, a link to /etc/passwd would leave"),
    (("link", tarfile.LNKTYPE, "../outside"), r"link, a link to \.\./outside would leave"),
    (("pipe", tarfile.FIFOTYPE, ""), "pipe is neither file, folder nor link"),
    (("big", b"x" * 2000), "declares more than 1000 bytes"),
])
def test_tar_refused(tmp_path, member, words):
    tarred(tmp_path / "a.tgz", ("good.txt", b"1"), member)
    with pytest.raises(ValueError, match=words):
        unpack(tmp_path / "a.tgz", tmp_path / "deep/out", limit=1000)
    assert left(tmp_path) == ["a.tgz", "deep"]


@pytest.mark.parametrize("name, words", [
    ("/etc/evil", "/etc/evil would leave"), ("../evil", r"\.\./evil would leave"), ("..\\evil", "evil would leave"),
    ("C:/evil", "C:/evil would leave"), ("big", "declares more than 1000 bytes")])
def test_zip_refused(tmp_path, name, words):
    (tmp_path / "a.zip").write_bytes(zipped({"good.txt": b"1", name: b"x" * (2000 if name == "big" else 1)}))
    with pytest.raises(ValueError, match=words):
        unpack(tmp_path / "a.zip", tmp_path / "out", limit=1000)
    assert left(tmp_path) == ["a.zip"]


def test_zip_link_and_damage_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as store:
        store.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="link is a link; links in a zip are refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "b.zip").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"b\.zip: neither a zip nor a tar"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    tarred(tmp_path / "c.tgz", ("x", GOOD * 2))
    (tmp_path / "c.tgz").write_bytes((tmp_path / "c.tgz").read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"c\.tgz: the archive is damaged"):
        unpack(tmp_path / "c.tgz", tmp_path / "out")
    assert left(tmp_path) == ["a.zip", "b.zip", "c.tgz"]
