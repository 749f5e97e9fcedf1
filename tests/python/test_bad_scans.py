"""Broken files: a reason each time, no hanging, little memory, and the other scans go on."""

import ctypes
import faulthandler
import gzip
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlimb.config import Recipe
from tlimb.preprocess import chunk as chunk_module
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.header import header_problem
from tlimb.preprocess.mask import own_mask
from tlimb.preprocess.nifti import ScanError, opened, read_voxels
from tlimb.preprocess.volume import content_digest, lifted, read_volume
from tlimb.preprocess.workers import Died, worked

AFFINE = np.array([[8.0, 0, 0, -92], [0, 8, 0, -117], [0, 0, 8, -83], [0, 0, 0, 1]])
SHAPE = (24, 26, 22)
DATA = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
RECIPE = SimpleNamespace(**Recipe(spacing=8.0, registration="none", mask="none").model_dump())


def image(data=DATA, affine=AFFINE, kind=nib.Nifti1Image):
    return kind(data, affine)


def header_with(**fields):
    """A change of a valid file's header fields."""

    def change(content: bytes) -> bytes:
        header = nib.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            header.structarr[name] = value
        return header.structarr.tobytes() + content[348:]

    return change


def with_values(**values):
    """A valid float32 file with some voxels replaced, or all of them."""

    def change(_content: bytes) -> bytes:
        data = DATA.astype(np.float32)
        data[:] = values.get("all", data)
        data[3, 4, 5] = values.get("one", data[3, 4, 5])
        return image(data).to_bytes()

    return change


def sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 1] = 8
    return affine


SINGULAR = {"sform_code": 1, "srow_x": [8, 0, 0, 0], "srow_y": [8, 0, 0, 0], "srow_z": [0, 0, 8, 0]}
BROKEN = {
    "empty": (lambda content: b"", "the file is empty"),
    "no header": (lambda content: content[:200], "200 bytes are too few for a header"),
    "truncated": (lambda content: content[:-50], r"truncated: the header promises \d+ bytes, the file holds \d+"),
    "text": (lambda content: b"subject,age\n" * 99, "it does not begin as a header does"),
    "wrong magic": (header_with(magic=b"ana"), "its magic is b'ana"),
    "pair": (header_with(magic=b"ni1"), "the header of a pair"),
    "sizes swapped": (lambda content: content[3::-1] + content[4:], "the header gives 768 axes"),
    "all NaN": (with_values(all=np.nan), "no voxel is finite"),
    "all infinite": (with_values(all=-np.inf), "no voxel is finite"),
    "constant": (with_values(all=7, one=7), "every voxel is 7"),
    "4D": (lambda content: image(np.stack([DATA, DATA], 3)).to_bytes(), "expected a 3D image, found 4D"),
    "2D": (lambda content: image(DATA[:, :, 0]).to_bytes(), "expected a 3D image, found 2D"),
    "zero length": (header_with(dim=[3, 24, 0, 22, 1, 1, 1, 1]), "an axis has length 0"),
    "negative length": (header_with(dim=[3, 24, -26, 22, 1, 1, 1, 1]), "an axis has a negative length"),
    "no axes": (header_with(dim=[0, 24, 26, 22, 1, 1, 1, 1]), "the header gives 0 axes"),
    "enormous": (header_with(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "more than can be worked on"),
    "large": (header_with(dim=[3, 800, 800, 800, 1, 1, 1, 1]), "truncated: the header promises 1024000352 bytes"),
    "colours": (header_with(datatype=128), "expected numbers as voxels, found colours"),
    "complex": (header_with(datatype=32), "expected numbers as voxels, found complex64"),
    "unknown type": (header_with(datatype=77), "found data type 77"),
    "voxels nowhere": (header_with(vox_offset=np.nan), "places the voxels at byte nan"),
    "voxels far away": (header_with(vox_offset=1e12), r"places the voxels at byte 1e\+12"),
    "no intercept": (header_with(scl_slope=2, scl_inter=np.nan), "intercept is not finite"),
    "singular affine": (header_with(**SINGULAR), "the header's affine is singular"),
    "NaN affine": (header_with(srow_x=[np.nan, 0, 0, 0]), "the header's affine is not finite"),
    "affine far away": (header_with(srow_x=[8, 0, 0, 1e9]), "the header's affine makes no sense"),
}
DAMAGED = {
    "zipped twice": (lambda content: gzip.compress(content), "it does not begin as a header does"),
    "cut": (lambda content: content[: len(content) // 2], "truncated: the header promises"),
    "cut checksum": (lambda content: content[:-3], "break off before their checksum"),
    "garbage within": (lambda content: content[:9000] + bytes(range(256)) * 4 + content[10024:], "damaged: "),
    "one bit": (lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], "incorrect data check"),
}


def reason_for(path) -> str:
    with pytest.raises(ScanError) as error:
        read_volume(path)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_image_is_refused_with_its_reason(tmp_path, name, suffix):
    change, reason = BROKEN[name]
    content = change(image().to_bytes())
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" and content else content)
    said = reason_for(path)
    assert re.search(reason, said), said
    in_voxels = name in ("all NaN", "all infinite", "constant")
    assert header_problem(str(path)) == (None if in_voxels else said)
    if name != "constant":
        with pytest.raises(ScanError, match="^mask: "):
            own_mask(path, read_volume(write(tmp_path / "scan.nii"))[0])


@pytest.mark.parametrize("name", DAMAGED)
def test_each_damage_of_compressed_data_is_found(tmp_path, name):
    change, reason = DAMAGED[name]
    path = tmp_path / "x.nii.gz"
    path.write_bytes(change(gzip.compress(image().to_bytes())))
    assert reason in reason_for(path)


def write(path, content: bytes | None = None) -> Path:
    path.write_bytes(image().to_bytes() if content is None else content)
    return path


@contextmanager
def somebody():
    """The rights of an ordinary user, where the tests are run by root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_is_no_file_is_refused_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    (tmp_path / "device.nii").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        listening.bind("socket.nii")
    reasons = {
        "pipe": "expected a file, found a pipe",
        "folder": "expected a file, found a folder",
        "link": "a link to a file that is not there",
        "loop": "Too many levels of symbolic links",
        "device": "expected a file, found a device",
        "socket": "expected a file, found a socket",
        "gone": "file not found",
    }
    for name, reason in reasons.items():
        assert reason in reason_for(tmp_path / f"{name}.nii")
        assert reason in header_problem(str(tmp_path / f"{name}.nii"))


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = write(tmp_path / "x.nii")
    path.chmod(0)
    with somebody():
        assert reason_for(path) == "permission denied"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write(tmp_path / "x.nii")
    with pytest.raises(ScanError, match="changed while it was read"), opened(path) as source:
        source.read(400)
        write(path, image(DATA[::-1]).to_bytes() + b"more")
        source.finish()


def replace(path: Path) -> None:
    write(path.with_name("y"), image(DATA[::-1]).to_bytes()).replace(path)


@pytest.mark.parametrize("act", [Path.unlink, replace], ids=["deleted", "replaced"])
def test_a_file_that_is_deleted_or_replaced_while_it_is_read_is_read_as_it_was(tmp_path, act):
    path = write(tmp_path / "x.nii")
    content, digest = path.read_bytes(), hashlib.sha256()
    with opened(path, digest) as source:
        first = source.read(400)
        act(path)
        assert first + source.read(10**6) == content
        source.finish()
    assert digest.digest() == hashlib.sha256(content).digest()


BOUNDED = """
import resource, sys
from tlimb.preprocess.volume import ScanError, read_volume
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        print(read_volume(path)[0].data.shape)
    except ScanError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_small_whatever_a_header_promises_and_a_file_inflates_to(tmp_path):
    plain = image().to_bytes()
    large = header_with(dim=[3, 800, 800, 800, 1, 1, 1, 1])(plain)
    zeros = gzip.compress(bytes(2**26))
    files = {
        "bomb.nii.gz": gzip.compress(plain) + zeros * 64,
        "one-member.nii.gz": gzip.compress(plain + bytes(2**27)),
        "promise.nii": large,
        "promise.nii.gz": gzip.compress(large),
        "promise-offset.nii.gz": gzip.compress(header_with(vox_offset=2**27)(plain) + bytes(2**26)),
    }
    paths = [write(tmp_path / name, content) for name, content in files.items()]
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *paths], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert done[0] == done[1] == str(SHAPE)
    assert all("truncated: the header promises" in line for line in done[2:5])
    assert int(done[5]) < 64, f"{done[5]} MiB"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    compressed=st.booleans(),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    changes=st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    cut=st.integers(0, 3000),
    inside=st.booleans(),
)
def test_no_corruption_raises_anything_but_a_reason(tmp_path, compressed, kind, changes, cut, inside):
    content = image(DATA[:6, :6, :6], kind=kind).to_bytes()
    content = gzip.compress(content, 1) if compressed and inside else content
    for place, new in changes:
        content = content[:place] + new + content[place + len(new) :]
    content = content[: max(1, len(content) - cut)]
    path = write(tmp_path / "x.nii", gzip.compress(content, 1) if compressed and not inside else content)
    try:
        volume, _ = read_volume(path)
        positive, _ = lifted(volume)
    except ScanError as error:
        assert str(error)
    else:
        assert np.isfinite(volume.data).all() and positive.data.min() >= 0 and len(content_digest(volume)) == 16


# Chunks


def chunk_of(folder: Path, contents: dict) -> dict:
    """A chunk whose i-th scan is what `contents[i]` leaves at the path it is called with."""
    scans = []
    for number, (name, make) in enumerate(contents.items(), start=1):
        (folder / str(number)).mkdir(parents=True)
        make(folder / str(number) / f"{name}.nii")
        scan = {"scan_id": f"c/{name}/1/T1w", "modality": "T1w", "image": "/somewhere", "mask": None, "confounds": None}
        scans.append(scan)
    return {"chunk": "all", "scans": scans}


def test_the_other_scans_of_a_chunk_go_on(tmp_path):
    contents = {
        "a": write,
        "bomb": lambda path: write(path, gzip.compress(bytes(2**24))),
        "constant": lambda path: write(path, image(DATA * 0 + 5).to_bytes()),
        "gone": lambda path: path.symlink_to("/nowhere.nii"),
        "pipe": os.mkfifo,
        "z": lambda path: write(path, gzip.compress(image(DATA[::-1]).to_bytes())),
    }
    array, index, header, montages = preprocess_chunk(chunk_of(tmp_path, contents), RECIPE, tmp_path, threads=2)
    assert [row["row"] for row in index] == [0, -1, -1, -1, -1, 1]
    assert header["n"] == len(array) == len(montages) == 2 and (array[0] != array[1]).any()
    reasons = [row["reason"] for row in index]
    assert reasons[0] == reasons[5] == "" and "does not begin" in reasons[1] and "every voxel is 5" in reasons[2]
    assert "a link to a file that is not there" in reasons[3] and "found a pipe" in reasons[4]


def test_a_scan_that_kills_its_process_is_recorded_and_the_rest_go_on(tmp_path, monkeypatch):
    real = chunk_module.preprocess_scan

    def deadly(path, *arguments):
        if path.stem == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.stem == "segfault":
            faulthandler.disable()
            ctypes.string_at(0)
        return real(path, *arguments)

    if sys.platform != "linux":
        pytest.skip("workers see the harm done here only where they are forked")
    monkeypatch.setattr(chunk_module, "preprocess_scan", deadly)
    names = ["a", "b", "c", "d", "killed", "m", "n", "segfault", "y", "z"]
    chunk = chunk_of(tmp_path, dict.fromkeys(names, write))
    for threads in (1, 2):
        array, index, _, _ = preprocess_chunk(chunk, RECIPE, tmp_path, threads=threads)
        failed = {row["scan_id"].split("/")[1]: row["reason"] for row in index if row["status"] == "failed"}
        assert set(failed) == {"killed", "segfault"} and len(array) == 8
        assert "ended by SIGKILL, perhaps for want of memory" in failed["killed"] and "SIGSEGV" in failed["segfault"]


def _square(number: int) -> int:
    if number == 17:
        os._exit(5)
    return number * number


def test_results_come_in_order_and_the_dead_are_named():
    expected = [Died("exit code 5") if number == 17 else number * number for number in range(40)]
    for workers in (1, 3):
        assert list(worked(_square, range(40), workers)) == expected
    assert list(worked(_square, [], 2)) == []


def test_want_of_memory_is_a_reason(tmp_path, monkeypatch):
    def hungry(*_):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(chunk_module, "preprocess_scan", hungry)
    _, index, _, _ = preprocess_chunk(chunk_of(tmp_path, {"a": write}), RECIPE, tmp_path)
    assert index[0]["reason"] == "not enough memory: Unable to allocate 9 GiB"


# Headers that contradict themselves


def placed_by(qform=None, sform=None, **fields) -> nib.Nifti1Image:
    made = nib.Nifti1Image(DATA, None)
    made.header.set_zooms((8, 8, 8))
    made.set_qform(qform, 0 if qform is None else 1)
    made.set_sform(sform, 0 if sform is None else 1)
    for name, value in fields.items():
        made.header.structarr[name] = value
    return made


def moved(mm=0.0, degrees=0.0, mirrored=False) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-8.0 if mirrored else 8.0, 8, 8])
    affine[:3, 3] = -90 + mm
    return affine


@pytest.mark.parametrize(
    ("made", "warning"),
    [
        (placed_by(moved(), moved()), None),
        (placed_by(moved(0.3), moved()), None),
        (placed_by(sform=moved(degrees=20)), None),
        (placed_by(moved(3), moved()), "sform and qform differ by 5.2 mm and 0 degrees"),
        (placed_by(moved(), moved(degrees=30)), "and 30 degrees"),
        (placed_by(moved(mirrored=True), moved()), "left and right among them"),
        (placed_by(sform=sheared()), "axes are 45.0 degrees off right angles"),
        (placed_by(sform=moved(), pixdim=[1] * 8), "its voxels are 8 x 8 x 8 mm, the header's sizes 1 x 1 x 1 mm"),
        (placed_by(), "the header gives no orientation"),
    ],
    ids=["agree", "nearly agree", "turned", "shifted", "rotated", "mirrored", "sheared", "other sizes", "none"],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_reported(tmp_path, made, warning):
    _, warnings = read_volume(write(tmp_path / "x.nii", made.to_bytes()))
    assert warnings == [] if warning is None else warning in "; ".join(warnings)


def test_reading_agrees_with_nibabel_for_every_type_order_and_version(tmp_path):
    for number, dtype in enumerate(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]):
        for order, kind in product("<>", (nib.Nifti1Image, nib.Nifti2Image)):
            made = kind(DATA.astype(dtype), AFFINE, kind.header_class(endianness=order))
            made.set_data_dtype(order + dtype)
            made.header.set_slope_inter(*((0.37, -11.5) if number % 2 else (1, 0)))
            path = write(tmp_path / "x.nii", made.to_bytes())
            values, found = read_voxels(path)
            np.testing.assert_array_equal(values, nib.load(path).get_fdata().astype(np.float32))
            np.testing.assert_allclose(found.affine, AFFINE)


def test_the_content_of_copies_agrees_and_of_others_differs(tmp_path):
    turned = image().as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    copies = [image(), turned, image(DATA.astype(np.float64)), image(kind=nib.Nifti2Image)]
    digests = {content_digest(read_volume(write(tmp_path / "x.nii", copy.to_bytes()))[0]) for copy in copies}
    plain = image().to_bytes()
    zipped = write(tmp_path / "x.nii.gz", gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]))
    digests.add(content_digest(read_volume(zipped)[0]))
    expected = hashlib.sha256(DATA.astype("<f4").tobytes("F")).hexdigest()[:16]
    assert digests == {expected}
    other = DATA.copy()
    other[0, 0, 0] += 1
    assert content_digest(read_volume(write(tmp_path / "y.nii", image(other).to_bytes()))[0]) != expected


def test_the_digest_is_of_the_files_bytes_whatever_follows_the_voxels(tmp_path):
    for content in (image().to_bytes() + b"tail" * 9999, gzip.compress(image().to_bytes()) + b"\0" * 512):
        path, digest = write(tmp_path / "x.nii", content), hashlib.sha256()
        values, _ = read_voxels(path, digest)
        np.testing.assert_array_equal(values, DATA)
        assert digest.digest() == hashlib.sha256(content).digest()


def test_negative_values_and_outliers_are_lifted_by_a_floor(tmp_path):
    data = DATA.astype(np.float32) - 50
    data[0, 0, 0] = -30000
    positive, floor = lifted(read_volume(write(tmp_path / "x.nii", image(data).to_bytes()))[0])
    assert positive.data.min() == 0 and -50 <= floor < -45
    np.testing.assert_allclose(positive.data + floor, np.maximum(data, floor), atol=1e-3)
