import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.cohort import chunk_files, chunks, read_cohort
from tlimb.errors import InputError
from tlimb.labels import read_label


def image(path, shape=(4, 5, 6), dtype=np.float32):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, shape).astype(dtype), np.eye(4)), path)
    return path


@pytest.fixture
def sheet(tmp_path):
    """Writes a samplesheet beside the images a.nii.gz ... f.nii.gz and returns its path."""
    for name in "abcdef":
        image(tmp_path / f"{name}.nii.gz")

    def write(text, name="cohorts.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path / name

    return write


def problems(path, kinds=None) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_cohort(path, kinds)
    return [str(problem) for problem in caught.value.problems]


def only(path, kinds=None) -> str:
    (problem,) = problems(path, kinds)
    return problem


GOOD = """cohort,subject,session,image,age,diagnosis,score
x,s2,,b.nii.gz,31,patient,0.5
x,s1,2,a.nii.gz,30.5,control,2

y,s3,,c.nii.gz,n/a,,3
"""


def test_a_good_sheet_becomes_a_table_and_a_summary(sheet, tmp_path):
    cohort = read_cohort(sheet(GOOD))
    table = cohort.table
    table.to_parquet(tmp_path / "cohort.parquet", index=False)
    check_table("cohort", pd.read_parquet(tmp_path / "cohort.parquet"))
    check_json("cohort", cohort.summary)
    assert list(table["scan_id"]) == ["x/s1/2/T1w", "x/s2/1/T1w", "y/s3/1/T1w"]
    assert list(table["person"]) == ["x/s1", "x/s2", "y/s3"]
    assert list(table["image"]) == [str((tmp_path / name).resolve()) for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")]
    assert table["age"].tolist()[:2] == [30.5, 31.0] and np.isnan(table["age"][2])
    assert cohort.summary["cohorts"]["x"] == {"scans": 2, "persons": 2}
    labels = cohort.summary["labels"]
    assert labels["diagnosis"] == {"kind": "classification", "classes": ["control", "patient"], "n": 2}
    assert labels["age"] == {"kind": "regression", "classes": [], "n": 2}
    assert cohort.summary["warnings"] == []


def test_tabs_semicolons_byte_order_marks_and_windows_lines_are_understood(sheet):
    expected = read_cohort(sheet(GOOD)).table
    tabs = sheet(GOOD.replace(",", "\t"), "cohorts.tsv", "utf-8-sig")
    pd.testing.assert_frame_equal(read_cohort(tabs).table, expected)
    pd.testing.assert_frame_equal(read_cohort(sheet(GOOD.replace(",", ";").replace("\n", "\r\n"))).table, expected)


def test_paths_count_from_the_real_folder_of_a_linked_sheet(sheet, tmp_path):
    real = sheet(GOOD)
    linked = tmp_path / "elsewhere" / "linked.csv"
    linked.parent.mkdir()
    linked.symlink_to(real)
    assert list(read_cohort(linked).table["image"]) == list(read_cohort(real).table["image"])


def test_urls_are_left_alone(sheet):
    table = read_cohort(sheet("cohort,subject,image\nx,s1,s3://bucket/s1.nii.gz\n")).table
    assert table["image"][0] == "s3://bucket/s1.nii.gz"


# Everything that can be wrong with a file


def truncated_gzip(path):
    whole = image(path, (20, 20, 20)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def short_gzip(path):
    path.write_bytes(gzip.compress(gzip.decompress(image(path).read_bytes())[:-50]))


def truncated(path):
    path.write_bytes(image(path).read_bytes()[:-1])


def cut_header(path):
    path.write_bytes(image(path).read_bytes()[:200])


def complex_image(path):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), np.eye(4)), path)


def no_slices(path):
    nib.save(nib.Nifti1Image(np.ones((3, 0, 3), np.float32), np.eye(4)), path)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.nii.gz", lambda path: None, "file not found"),
        ("empty.nii.gz", lambda path: path.write_bytes(b""), "empty (0 bytes)"),
        ("text.nii.gz", lambda path: path.write_text("hello"), "not gzip-compressed"),
        ("zipped.nii", lambda path: path.write_bytes(gzip.compress(b"x" * 999)), "gzip-compressed but named .nii"),
        ("noise.nii", lambda path: path.write_bytes(b"\x07" * 999), "not a readable NIfTI"),
        ("header.nii", cut_header, "not a readable NIfTI"),
        ("cut.nii", truncated, "truncated: the header promises 832 bytes, the file holds 831"),
        ("cut.nii.gz", truncated_gzip, "truncated"),
        ("short.nii.gz", short_gzip, "truncated: the header promises 832 bytes, the file holds 782"),
        ("time.nii.gz", lambda path: image(path, (4, 4, 4, 2)), "expected a 3D image, found 4D (4 x 4 x 4 x 2)"),
        ("flat.nii.gz", lambda path: image(path, (4, 4)), "expected a 3D image, found 2D (4 x 4)"),
        ("none.nii.gz", no_slices, "axis has length 0"),
        ("complex.nii", complex_image, "expected numbers as voxels"),
        ("image.mgz", lambda path: path.write_bytes(b"x"), "expected a NIfTI file"),
        ("folder.nii", lambda path: path.mkdir(), "found a folder"),
    ],
)
def test_a_bad_file_is_named_with_its_row_and_column(sheet, tmp_path, name, make, message):
    make(tmp_path / name)
    path = sheet(f"cohort,subject,image,mask\nx,s1,a.nii.gz,\nx,s2,{name},\nx,s3,c.nii.gz,{name}\n")
    found = problems(path)
    assert len(found) == 2
    assert found[0].startswith("cohorts.csv, row 2 (line 3), column image: ") and message in found[0]
    assert found[1].startswith("cohorts.csv, row 3 (line 4), column mask: ") and message in found[1]


def test_trailing_axes_of_length_one_and_gzip_in_several_members_are_fine(sheet, tmp_path):
    image(tmp_path / "trailing.nii", (3, 4, 5, 1, 1))
    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    assert len(read_cohort(sheet("cohort,subject,image\nx,s1,trailing.nii\nx,s2,members.nii.gz\n")).table) == 2


def test_a_missing_file_comes_with_the_nearest_one(sheet):
    assert "did you mean 'a.nii.gz'" in only(sheet("cohort,subject,image\nx,s1,aa.nii.gz\n"))
    assert "there is no folder" in only(sheet("cohort,subject,image\nx,s1,nowhere/a.nii.gz\n"))


# Everything that can be wrong with a sheet


def test_a_sheet_that_cannot_be_read_says_why(sheet, tmp_path):
    assert "samplesheet not found" in only(tmp_path / "none.csv")
    assert "is empty" in only(sheet(""))
    assert "no rows" in only(sheet("cohort,subject,image\n"))
    assert "not UTF-8" in only(sheet("cohort,subject,image\nx,é,a.nii.gz\n", encoding="latin-1"))
    assert "cannot be read" in only(tmp_path)
    assert "not a readable table" in only(sheet('cohort,subject,image\nx,"s1"1,a.nii.gz\n'))


def test_rows_must_match_the_header(sheet):
    found = problems(sheet("cohort,subject,image\nx,s1\nx,s2,b.nii.gz,1\nx,s3,c.nii.gz\n"))
    assert found == [
        "cohorts.csv, row 1 (line 2): 2 cells, the header has 3",
        "cohorts.csv, row 2 (line 3): 4 cells, the header has 3",
    ]
    assert "more than once" in only(sheet("cohort,subject,image,age,age\nx,s1,a.nii.gz,1,2\n"))
    assert "no name" in only(sheet("cohort,subject,image,\nx,s1,a.nii.gz,1\n"))
    assert len(read_cohort(sheet("cohort,subject,image,\nx,s1,a.nii.gz,\n")).table) == 1


def test_misspelt_columns_are_told_apart_from_labels(sheet):
    found = problems(sheet("cohort,subjct,img,sesion,age,scan_id\nx,s1,a.nii.gz,1,30,7\n"))
    assert len(found) == 4
    assert "'subject' is missing (did you mean 'subjct'?)" in found[0]
    assert "'image' is missing (did you mean 'img'?)" in found[1]
    assert "column sesion: unknown column (did you mean 'session'?" in found[2]
    assert "column scan_id" in found[3]


def test_empty_cells_and_bad_characters_are_found_in_every_row(sheet):
    found = problems(sheet("cohort,subject,image,session\nx,,a.nii.gz,\nx,s 2,b.nii.gz,1/2\n,s3,,\n"))
    places = [text.split(": ")[0].split(" (")[0] + text.split(")")[1].split(":")[0] for text in found]
    assert places == [
        "cohorts.csv, row 3, column cohort",
        "cohorts.csv, row 1, column subject",
        "cohorts.csv, row 2, column subject",
        "cohorts.csv, row 3, column image",
        "cohorts.csv, row 2, column session",
    ]


def test_a_scan_or_a_file_given_twice_is_found(sheet, tmp_path):
    found = only(sheet("cohort,subject,image\nx,s1,a.nii.gz\nx,s1,b.nii.gz\n"))
    assert "the scan x/s1/1/T1w stands already in row 1" in found
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    found = only(sheet("cohort,subject,image\nx,s1,a.nii.gz\nx,s2,b.nii.gz\nx,s3,link.nii.gz\n"))
    assert found.startswith("cohorts.csv, row 3 (line 4), column image: the same file as in row 1")


def test_one_subject_name_in_two_cohorts_asks_who_it_is(sheet):
    rows = "x,s1,a.nii.gz,{}\ny,s1,b.nii.gz,{}\ny,s2,c.nii.gz,\n"
    found = only(sheet("cohort,subject,image,person\n" + rows.format("", "")))
    assert "'s1' stands in x (row 1) and y (row 2)" in found and "fill the column person" in found
    assert "stands in" in only(sheet("cohort,subject,image\nx,s1,a.nii.gz\ny,s1,b.nii.gz\n"))
    assert "stands in" in only(sheet("cohort,subject,image,person\n" + rows.format("p1", "")))
    same = read_cohort(sheet("cohort,subject,image,person\n" + rows.format("p1", "p1")))
    assert list(same.table["person"]) == ["p1", "p1", "y/s2"] and same.summary["persons"] == 2
    assert read_cohort(sheet("cohort,subject,image,person\n" + rows.format("x/s1", "y/s1"))).summary["persons"] == 3


def test_one_subject_is_one_person(sheet):
    found = only(sheet("cohort,subject,session,image,person\nx,s1,1,a.nii.gz,p1\nx,s1,2,b.nii.gz,p2\n"))
    assert found.startswith("cohorts.csv, row 2 (line 3), column person") and "'p1' in row 1" in found


def test_all_problems_come_at_once(sheet):
    text = "cohort,subject,image,sesion,age\nx,,gone.nii.gz,,3\nx,s2,b.nii.gz,,old\nx,s2,b.nii.gz,,4\n"
    assert len(problems(sheet(text), {"age": "regression", "sx": "classification"})) == 6


# Labels


def test_text_among_numbers_is_kept_as_text_with_a_warning(sheet):
    cohort = read_cohort(sheet("cohort,subject,image,age\nx,s1,a.nii.gz,30\nx,s2,b.nii.gz,31\nx,s3,c.nii.gz,unknown\n"))
    assert cohort.table["age"].tolist() == ["30", "31", "unknown"]
    assert cohort.summary["warnings"] == ["age: taken as text because of row 3 'unknown'"]


def test_a_label_that_part_of_a_cohort_lacks_is_a_warning(sheet):
    cohort = read_cohort(sheet("cohort,subject,image,age\nx,s1,a.nii.gz,30\nx,s2,b.nii.gz,\ny,s3,c.nii.gz,\n"))
    assert cohort.summary["warnings"] == ["x: 1 of 2 scans have no age: x/s2/1/T1w"]


def test_the_sweep_overrules_kinds_and_names_labels_that_are_not_there(sheet):
    path = sheet("cohort,subject,image,sex,apoe\nx,s1,a.nii.gz,0,e3\nx,s2,b.nii.gz,1,e4\n")
    assert read_cohort(path).summary["labels"]["sex"] == {"kind": "classification", "classes": ["0", "1"], "n": 2}
    assert read_cohort(path, {"sex": "regression"}).summary["labels"]["sex"]["kind"] == "regression"
    assert "did you mean 'sex'" in only(path, {"sexx": "regression"})
    assert len(problems(path, {"apoe": "regression"})) == 2


@given(st.lists(st.floats(-1e6, 1e6) | st.integers(-50, 50) | st.none(), min_size=1))
def test_numbers_survive_being_written_and_read(values):
    label = read_label(pd.Series(["" if value is None else repr(value) for value in values], dtype="str"))
    assert label.values.dtype == np.float64 and label.odd == []
    np.testing.assert_array_equal(label.values, np.array(values, dtype=float))
    distinct = {value for value in values if value is not None}
    whole = all(float(value).is_integer() for value in distinct)
    assert (label.kind == "classification") == (whole and 0 < len(set(map(float, distinct))) <= 10)


# Chunks

ids = st.sets(st.text("abcdef0123/", min_size=1, max_size=12), max_size=200)


@settings(deadline=None)
@given(ids, st.integers(1, 20))
def test_every_scan_is_in_one_chunk_and_no_chunk_is_too_large(scans, size):
    made = chunks(scans, size)
    assert sorted(scan for part in made.values() for scan in part) == sorted(scans)
    assert all(0 < len(part) <= size for part in made.values())
    assert all(part == sorted(part) for part in made.values())
    assert chunks(sorted(scans, reverse=True), size) == made


@settings(deadline=None)
@given(ids, ids, st.integers(1, 20))
def test_adding_scans_touches_only_the_chunks_that_receive_some(scans, more, size):
    before, after = chunks(scans, size), chunks(scans | more, size)
    for name, part in before.items():
        kept = after.get(name) == part
        received = {scan for other in after.values() for scan in other if scan in more - scans}
        divided = name not in after
        assert kept or divided or received & set(after[name])
        if divided:
            inside = [key for key in after if name == "all" or key.startswith(name)]
            assert received & {scan for key in inside for scan in after[key]}


def test_chunk_files_hold_what_preprocessing_needs(sheet):
    table = read_cohort(sheet(GOOD)).table
    (chunk,) = chunk_files(table, 64).values()
    check_json("chunk", chunk)
    assert chunk["chunk"] == "all" and [scan["scan_id"] for scan in chunk["scans"]] == list(table["scan_id"])
    assert len(chunk_files(table, 1)) == 3


def test_the_cohort_module_is_light():
    heavy = {"torch", "SimpleITK", "lightning", "monai", "sklearn"}
    code = f"import sys, tlimb.cohort; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
