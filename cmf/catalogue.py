"""Data sets and weights by name: where they lie, how they are obtained, what proves that they are the right ones.

An entry is looked for in the folder that CMF_DATA names, then in the cache folder (CMF_CACHE, else the
platform's own), under its `place`. A set of many files carries a SHA256SUMS file; the catalogue holds the
checksum of that file, which so covers every other one. Nothing is downloaded whose checksum is not known here.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SUMS = "SHA256SUMS"
LIMIT = 50 * 10**9  # bytes that an archive may declare to hold


@dataclass(frozen=True)
class Entry:
    """One data set or one file of weights.

    kind: "data", "weights" or "generated". place: file or folder below CMF_DATA or the cache.
    address: places to download from, in order. unpack: the download is a zip or tar, kept as a folder.
    sha256: of the download, of the folder's SHA256SUMS, or its first digits (8 at least); None if not known.
    size: bytes, about. how: how to obtain it by hand. layout: what lies in the place.
    """

    kind: str
    place: str
    licence: str
    citation: str
    layout: str
    address: tuple[str, ...] = ()
    sha256: str | None = None
    size: int | None = None
    unpack: bool = False
    how: str = ""

    def __post_init__(self):
        if self.kind not in ("data", "weights", "generated"):
            raise ValueError(f"{self.place}: kind {self.kind!r}, expected data, weights or generated")
        if self.sha256 is None and not self.how:
            raise ValueError(f"{self.place}: without sha256 an entry must say how to obtain it")
        if self.sha256 is not None and not 8 <= len(self.sha256) <= 64:
            raise ValueError(f"{self.place}: sha256 of {len(self.sha256)} digits, expected 8 to 64")


ENTRIES: dict[str, Entry] = {
    "deepspace": Entry(
        "data", "deepspace", size=12_032_251,
        sha256="3bb4c080232f78795b12610015ccabb5538a2a8c25b49e8addeb64a53ff9bd1a",
        licence="public alert packets; the collections they come from are Apache-2.0, BSD-3-Clause and MIT",
        citation="Bellm et al. 2019, PASP 131, 018002 (ZTF); Moller et al. 2021, MNRAS 501, 3272 (Fink); "
                 "Vera C. Rubin Observatory (LSST)",
        layout="ztf.npz, ztf_targets.csv (529 objects), lsst.npz, lsst_targets.csv (73 objects)",
        how="place the packed folder there; for own packets use cmf.datasets.survey.read_alerts"),
    "ztf_alerts": Entry(
        "data", "ztf_alerts", licence="public data", citation="Bellm et al. 2019, PASP 131, 018002",
        layout="*.avro alert packets at any depth, for cmf.datasets.survey.read_alerts",
        how="download a night's archive from https://ztf.uw.edu/alerts/public/ and unpack it there"),
    "infrared_visible": Entry(
        "data", "infrared_visible", size=74_752_264,
        sha256="18c25784da6cc953852b8e715cdeb98333905ba607bdd4a4cd0ed39c2b40b349",
        licence="research use; CWFID non-commercial research only; STDFusionNet masks MIT",
        citation="Tang et al. 2022, Information Fusion 83-84, 79 (MSRS); Xu et al. 2020, AAAI (RoadScene); "
                 "Toet 2014, TNO Image Fusion Dataset; Haug and Ostermann 2014, ECCV workshops (CWFID)",
        layout="manifest.csv; msrs_test, cwfid, roadscene, tno, tno_salient with ir/ and vi/ and labels",
        how="place the packed folder there; originals: https://github.com/Linfeng-Tang/MSRS, "
            "https://github.com/hanna-xu/RoadScene, https://github.com/cwfid/dataset"),
    "medical_pairs": Entry(
        "data", "medical_pairs", size=12_727_085,
        sha256="688cedfcf0c1378db27a40cea1b27fb1aed2fce1f5ab005b96ef591bcd707c09",
        licence="none stated", citation="Harvard Whole Brain Atlas, http://www.med.harvard.edu/AANLIB/home.html",
        layout="pairs.csv; CT-MRI, PET-MRI, SPECT-MRI with train and test", how="place the packed folder there"),
    "roadscene": Entry(
        "data", "roadscene", licence="none stated; asks to be cited",
        citation="Xu, Ma, Jiang, Guo and Ling 2022, IEEE TPAMI 44, 502 (U2Fusion)",
        layout="crop_LR_visible, cropinfrared (221 pairs)",
        how="git clone https://github.com/hanna-xu/RoadScene $CMF_DATA/roadscene"),
    "tno": Entry(
        "data", "tno", licence="as its page states; research use", citation="Toet 2017, Data in Brief 15, 249",
        layout="vi, ir with 01.png to 42.png",
        how="copy TNO/vi and TNO/ir of https://github.com/Linfeng-Tang/Image-Fusion (General Evaluation "
            "Metric/Image/Source-Image) there; original: https://doi.org/10.6084/m9.figshare.1008029"),
    "msrs": Entry(
        "data", "msrs", licence="none stated; asks to be cited",
        citation="Tang, Yuan, Zhang, Jiang and Ma 2022, Information Fusion 83-84, 79 (PIAFusion)",
        layout="train/vi, train/ir (1083 pairs), test/vi, test/ir (361 pairs); to segment also train/label, test/label",
        how="git clone https://github.com/Linfeng-Tang/MSRS $CMF_DATA/msrs"),
    "mfnet": Entry(
        "data", "mfnet", licence="none stated; asks to be cited",
        citation="Ha, Watanabe, Karasawa, Ushiku and Harada 2017, IROS (MFNet)",
        layout="images (four channels), labels, train.txt, val.txt, test.txt; or RGB, Modal, Label and these lists",
        how="download the set from https://www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral/, unpack it there"),
    "fmb": Entry(
        "data", "fmb", licence="none stated; asks to be cited", citation="Liu et al. 2023, ICCV (SegMiF)",
        layout="train, test, each with Visible, Infrared, Label (1220 and 280 pairs)",
        how="follow https://github.com/JinyuanLiu-CV/SegMiF and unpack the set there"),
    "pst900": Entry(
        "data", "pst900", licence="as its page states", citation="Shivakumar et al. 2020, ICRA (PST900)",
        layout="train, test, each with rgb, thermal, labels",
        how="follow https://github.com/ShreyasSkandanS/pst900_thermal_rgb and unpack the set there"),
    "m3fd": Entry(
        "data", "m3fd", licence="none stated; research use", citation="Liu et al. 2022, CVPR (TarDAL)",
        layout="Vis, Ir", how="download M3FD_Fusion from https://github.com/JinyuanLiu-CV/TarDAL, unpack it there"),
    "llvip": Entry(
        "data", "llvip", licence="as its page states; non-commercial research",
        citation="Jia, Zhu, Li, Tang and Zhou 2021, ICCV workshops",
        layout="visible/train, visible/test, infrared/train, infrared/test",
        how="ask for it at https://bupt-ai-cz.github.io/LLVIP/ and unpack it there"),
    "harvard": Entry(
        "data", "harvard", licence="none stated",
        citation="Harvard Whole Brain Atlas, http://www.med.harvard.edu/AANLIB/home.html",
        layout="CT-MRI, PET-MRI, SPECT-MRI, each with train and test of CT, PET or SPECT and MRI",
        how="copy MyDatasets of https://github.com/xianming-gu/Havard-Medical-Image-Fusion-Datasets there"),
    "flickr8k": Entry(
        "data", "flickr8k", size=16_589_207,
        sha256="22bd0303daba0402b04380163c36351337364ecb3b001ed924d5ff2e7fbe4190",
        licence="non-commercial research and education", citation="Hodosh, Young and Hockenmaier 2013, JAIR 47, 853",
        layout="captions.csv, images/*.jpg (900 images, five captions each)", how="place the packed folder there"),
    "ucsd_ped2": Entry(
        "data", "ucsd_ped2", size=34_978_452,
        sha256="7a1dcecda49d68ead91454ae96a4cd1dacfdd06b06e56970c1a19d7e68a4131b",
        licence="none stated; asks to be cited", citation="Mahadevan, Li, Bhalodia and Vasconcelos 2010, CVPR",
        layout="frames.csv; train and test clips of JPEG frames; test_masks_360x240_packbits.npz",
        how="place the packed folder there; original: http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"),
    "ucf_crime": Entry(
        "data", "ucf_crime", licence="as its page states; research use",
        citation="Sultani, Chen and Shah 2018, CVPR (UCF-Crime)",
        layout="Anomaly_Train.txt, Anomaly_Test.txt, the temporal annotation of test videos, videos at any depth",
        how="follow https://www.crcv.ucf.edu/projects/real-world/ and unpack the set there"),
    "xd_violence": Entry(
        "data", "xd_violence", licence="as its page states; research use",
        citation="Wu et al. 2020, ECCV (XD-Violence)", layout="train, test with videos, annotations.txt",
        how="follow https://roc-ng.github.io/XD-Violence/ and unpack the set there"),
    "deepspace-sim": Entry(
        "generated", "deepspace-sim", licence="MIT", citation="cmf.simulate.deepspace",
        layout="train/2D, train/1D; images, sequences",
        how="made, not fetched: python -m cmf data make deepspace --out DIR"),
    "inception_v3": Entry(
        "weights", "inception_v3_google-0cc3c7bd.pth", sha256="0cc3c7bd", size=108_950_000,
        address=("https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",),
        licence="BSD-3-Clause (torchvision); trained on ImageNet-1k, research use",
        citation="Szegedy et al. 2016, CVPR", layout="state dict for torchvision.models.inception_v3"),
    "clip-vit-base-patch32": Entry(
        "weights", "clip-vit-base-patch32", licence="MIT", citation="Radford et al. 2021, ICML",
        layout="config.json, tokenizer files, model.safetensors",
        how="hf download openai/clip-vit-base-patch32 --local-dir $CMF_DATA/clip-vit-base-patch32"),
    "blip-image-captioning-base": Entry(
        "weights", "blip-image-captioning-base", licence="BSD-3-Clause", citation="Li et al. 2022, ICML",
        layout="config.json, tokenizer files, model.safetensors",
        how="hf download Salesforce/blip-image-captioning-base --local-dir $CMF_DATA/blip-image-captioning-base"),
    "distilbert-base-uncased": Entry(
        "weights", "distilbert-base-uncased", licence="Apache-2.0", citation="Sanh et al. 2019, arXiv 1910.01108",
        layout="config.json, tokenizer files, model.safetensors",
        how="hf download distilbert/distilbert-base-uncased --local-dir $CMF_DATA/distilbert-base-uncased"),
}


def cache_folder() -> Path:
    """Folder of downloads: CMF_CACHE, else the platform's cache folder for cmf."""
    if os.environ.get("CMF_CACHE"):
        return Path(os.environ["CMF_CACHE"])
    import pooch

    return Path(pooch.os_cache("cmf"))


def entry(name: str) -> Entry:
    """The entry of that name. Raises ValueError with the nearest and all known names."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown name {name!r}; {hint}known are {', '.join(sorted(ENTRIES))}")
    return ENTRIES[name]


def find(name: str) -> Path:
    """Path of an entry that is here, unchecked. Raises FileNotFoundError that says how to obtain it."""
    wanted = entry(name)
    folders = _folders(wanted)
    for folder in folders:
        if (folder / wanted.place).exists():
            return folder / wanted.place
    ways = f"python -m cmf data get {name}" if wanted.address and wanted.sha256 else wanted.how
    raise FileNotFoundError(f"{name} is not here; looked for {' and '.join(str(f / wanted.place) for f in folders)} "
                            f"(CMF_DATA names the first folder). To obtain it: {ways}. Layout: {wanted.layout}")


def get(name: str, progress: bool = True) -> Path:
    """Path of an entry, checked; downloaded to the cache folder first when it is not here and can be.

    progress: show a bar. The download goes to `<place>.part` and is renamed when its checksum agrees.
    Raises FileNotFoundError when it must be obtained by hand, OSError when no address answers whole, and
    ValueError on a wrong checksum or an archive that is refused.
    """
    wanted = entry(name)
    try:
        find(name)
    except FileNotFoundError:
        if not (wanted.address and wanted.sha256):
            raise
        _fetch(name, wanted, cache_folder() / wanted.place, progress)
    if wanted.unpack:   # a run that was killed after it had unpacked left the archive
        (cache_folder() / f"{wanted.place}.download.part").unlink(missing_ok=True)
    return check(name, progress)


def check(name: str, progress: bool = False) -> Path:
    """Path of an entry after comparing checksums of all its files.

    Raises FileNotFoundError when it is not here, ValueError naming the files that differ or are missing.
    An entry without a known checksum is only looked for.
    """
    wanted, path = entry(name), find(name)
    if path.is_file():
        if wanted.sha256:
            _compare(path, wanted.sha256)
        return path
    sums = path / SUMS
    if not sums.is_file():
        if wanted.sha256 is None:
            return path
        raise ValueError(f"{path}: without its {SUMS}; obtain the set again ({wanted.how or 'data get'})")
    if wanted.sha256 and not wanted.unpack:
        _compare(sums, wanted.sha256)
    wrong = []
    lines = sums.read_text(encoding="utf-8").splitlines()
    from tqdm import tqdm

    for line in tqdm(lines, desc=f"check {name}", unit="file", disable=not progress, delay=1):
        digest, _, relative = line.partition("  ")
        file = path / relative.removeprefix("*")
        if not file.is_file() or _sha256(file) != digest:
            wrong.append(relative)
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(f"{path}: {len(wrong)} of {len(lines)} files missing or changed: "
                         f"{', '.join(wrong[:10])}{more}; obtain the set again")
    return path


def rows() -> list[dict]:
    """One dict an entry: name, kind, size (bytes or None), licence, path (None when it is not here), how."""
    table = []
    for name, wanted in ENTRIES.items():
        paths = [folder / wanted.place for folder in _folders(wanted)]
        table.append({"name": name, "kind": wanted.kind, "size": wanted.size, "licence": wanted.licence,
                      "path": next((path for path in paths if path.exists()), None),
                      "how": wanted.how or f"python -m cmf data get {name}"})
    return table


def unpack(archive, target, limit: int = LIMIT) -> Path:
    """Unpack a zip or tar into the folder `target`, which must not exist, and list its files in SHA256SUMS.

    Everything is unpacked aside and renamed at the end. Raises FileExistsError for an existing target;
    ValueError for an absolute path, "..", a link that is absolute or climbs, a device, more than `limit` bytes
    declared, or a damaged archive: nothing is left behind then.
    """
    archive, target = Path(archive), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it or choose another folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as store:
                total = 0
                for info in store.infolist():
                    total = _admit(archive, info.filename, info.file_size, total, limit)
                    if stat.S_ISLNK(info.external_attr >> 16):
                        raise ValueError(f"{archive}: {info.filename} is a link; links in a zip are refused")
                store.extractall(part)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as store:
                total = 0
                for member in store:
                    total = _admit(archive, member.name, member.size, total, limit)
                    if member.issym() or member.islnk():
                        _admit(archive, member.linkname, 0, total, limit, f"{member.name}, a link to ")
                    elif not (member.isreg() or member.isdir()):
                        raise ValueError(f"{archive}: {member.name} is neither file, folder nor link")
                store.extractall(part, filter="data")
        else:
            raise ValueError(f"{archive}: neither a zip nor a tar")
        files = sorted(path for path in part.rglob("*") if path.is_file() and path.name != SUMS)
        if not (part / SUMS).exists():
            listing = "".join(f"{_sha256(path)}  {path.relative_to(part).as_posix()}\n" for path in files)
            (part / SUMS).write_text(listing, encoding="utf-8")
        os.replace(part, target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as reason:
        raise ValueError(f"{archive}: the archive is damaged ({reason})") from reason
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _folders(wanted: Entry) -> list[Path]:
    folders = [Path(os.environ["CMF_DATA"])] if os.environ.get("CMF_DATA") else []
    folders.append(cache_folder())
    if wanted.place.endswith(".pth"):  # torch.hub may have it already
        home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
        folders.append(Path(home) / "hub" / "checkpoints")
    return folders


def _fetch(name: str, wanted: Entry, target: Path, progress: bool) -> None:
    """Download to a part file, compare, then rename or unpack; the part file never stays."""
    import pooch

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + (".download.part" if wanted.unpack else ".part"))
    failures = []
    with _alone(target.parent):
        if target.exists():     # another process was faster
            return
        for address in wanted.address:
            try:
                pooch.HTTPDownloader(progressbar=progress)(address, str(part), None)
                _compare(part, wanted.sha256)
                if wanted.unpack:
                    unpack(part, target)
                else:
                    os.replace(part, target)
                return
            except (OSError, ValueError) as reason:
                failures.append((address, reason))
            finally:
                part.unlink(missing_ok=True)
    told = "; ".join(f"{address}: {reason}" for address, reason in failures)
    kind = ValueError if all(isinstance(reason, ValueError) for _, reason in failures) else OSError
    raise kind(f"{name} could not be downloaded, nothing was kept. {told}") from failures[-1][1]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time downloads to a folder; the system frees the lock when its holder dies."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _compare(path: Path, expected: str) -> None:
    digest = _sha256(path)
    if not digest.startswith(expected.lower()):
        raise ValueError(f"{path}: sha256 {digest}, expected {expected}; it is not the file that the "
                         "catalogue names, remove it and obtain it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _admit(archive: Path, name: str, size: int, total: int, limit: int, what: str = "") -> int:
    """The declared bytes so far, if the path stays below the target and the sum below the limit."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or plain[1:2] == ":" or ".." in PurePosixPath(plain).parts:
        raise ValueError(f"{archive}: {what}{name} would leave the target folder; nothing was unpacked")
    if total + size > limit:
        raise ValueError(f"{archive}: declares more than {limit} bytes; nothing was unpacked")
    return total + size
