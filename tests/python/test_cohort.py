import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlimb import scan_files
from tlimb.cohort import chunk_files, chunks, read_cohort
from tlimb.config import LabelSpec
from tlimb.errors import InputError
from tlimb.labels import read_label, same_value
from tlimb.split_file import ROLES


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


def problems(path, kinds=None, **options) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_cohort(path, {name: LabelSpec(kind=kind) for name, kind in (kinds or {}).items()}, **options)
    return [str(problem) for problem in caught.value.problems]


def only(path, kinds=None, **options) -> str:
    (problem,) = problems(path, kinds, **options)
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
    assert "save it as CSV" in only(tmp_path / "cohorts.xlsx")
    found = only(sheet("cohort,subject,image\nx,s1,a.nii.gz\nx,s2,b\0.nii.gz\n"))
    assert found == "cohorts.csv, line 3: holds a null byte, expected text (save it as UTF-8)"
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


@pytest.mark.parametrize("unknown", ["n/a", "NA", "nan", "null"])
def test_optional_cells_that_mean_not_known_are_as_good_as_empty(sheet, unknown):
    header = "cohort,subject,image,session,modality,mask,confounds,person\n"
    rows = "x,s1,a.nii.gz,{0},{0},{0},{0},{0}\nx,s2,b.nii.gz,{0},{0},{0},{0},{0}\n"
    cohort = read_cohort(sheet(header + rows.format(unknown)))
    pd.testing.assert_frame_equal(cohort.table, read_cohort(sheet(header + rows.format(""))).table)
    assert list(cohort.table["person"]) == ["x/s1", "x/s2"] and cohort.table["scan_id"][0] == "x/s1/1/T1w"
    shared = f"cohort,subject,image,person\nx,s1,a.nii.gz,{unknown}\ny,s1,b.nii.gz,{unknown}\n"
    assert "nothing says whether that is one person" in only(sheet(shared))


def test_a_table_of_labels_takes_persons_and_sessions_that_are_not_known_as_empty(sheet):
    path = sheet("cohort,subject,image,person,session\nx,s1,a.nii.gz,n/a,n/a\nx,s2,b.nii.gz,n/a,2\n")
    told = sheet("subject\tsession\tperson\tscore\ns1\t1\tn/a\t3\ns2\tn/a\tn/a\t4\n", "scores.tsv")
    cohort = read_cohort(path, tables=[told])
    assert cohort.table["score"].tolist() == [3, 4] and list(cohort.table["person"]) == ["x/s1", "x/s2"]
    path = sheet("cohort,subject,image,person\nx,s1,a.nii.gz,n/a\ny,s1,b.nii.gz,n/a\n")
    found = problems(path, tables=[sheet("subject,score\ns1,3\n", "t.csv")])
    assert any("'s1' stands in the cohorts x and y" in text for text in found)


def test_all_problems_come_at_once(sheet):
    text = "cohort,subject,image,sesion,age\nx,,gone.nii.gz,,3\nx,s2,b.nii.gz,,old\nx,s2,b.nii.gz,,4\n"
    assert len(problems(sheet(text), {"age": "regression", "sx": "classification"})) == 6


# Labels


def test_text_among_numbers_is_kept_as_text_with_a_warning(sheet):
    cohort = read_cohort(sheet("cohort,subject,image,age\nx,s1,a.nii.gz,30\nx,s2,b.nii.gz,31\nx,s3,c.nii.gz,unknown\n"))
    assert cohort.table["age"].tolist() == ["30", "31", "unknown"]
    assert cohort.summary["warnings"] == ["age: taken as text because of row 3 'unknown'"]


def test_numbers_with_a_decimal_comma_are_told_unless_they_are_classes(sheet):
    path = sheet("cohort;subject;image;age\nx;s1;a.nii.gz;35,8\nx;s2;b.nii.gz;-36,1\nx;s3;c.nii.gz;37\n")
    expected = "cohorts.csv, column age: decimal comma in row 1 '35,8', row 2 '-36,1' (write 35.8)"
    assert only(path) == expected
    assert only(path, {"age": "regression"}) == expected
    classes = read_cohort(path, {"age": LabelSpec(kind="classification")}).summary["labels"]["age"]["classes"]
    assert classes == ["-36,1", "35,8", "37"]


def test_a_number_too_large_for_a_float_is_text_with_a_warning(sheet):
    cohort = read_cohort(sheet("cohort,subject,image,age\nx,s1,a.nii.gz,1e400\nx,s2,b.nii.gz,31\n"))
    assert cohort.table["age"].tolist() == ["1e400", "31"]
    assert cohort.summary["warnings"] == ["age: taken as text because of row 1 '1e400'"]
    assert not same_value("1e400", "1e500") and same_value("31", "31.0")


def test_a_label_that_part_of_a_cohort_lacks_is_a_warning(sheet):
    cohort = read_cohort(sheet("cohort,subject,image,age\nx,s1,a.nii.gz,30\nx,s2,b.nii.gz,\ny,s3,c.nii.gz,\n"))
    assert cohort.summary["warnings"] == ["x: 1 of 2 scans have no age: x/s2/1/T1w"]


def test_the_sweep_overrules_kinds_and_names_labels_that_are_not_there(sheet):
    path = sheet("cohort,subject,image,sex,apoe\nx,s1,a.nii.gz,0,e3\nx,s2,b.nii.gz,1,e4\n")
    assert read_cohort(path).summary["labels"]["sex"] == {"kind": "classification", "classes": ["0", "1"], "n": 2}
    assert read_cohort(path, {"sex": LabelSpec(kind="regression")}).summary["labels"]["sex"]["kind"] == "regression"
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


# Tables of labels

PLAIN = (
    "cohort,subject,session,image,age\nx,s1,1,a.nii.gz,30\nx,s1,2,b.nii.gz,\nx,s2,1,c.nii.gz,40\ny,s3,,d.nii.gz,50\n"
)


def test_labels_are_joined_by_subject_session_and_cohort(sheet):
    path = sheet(PLAIN)
    by_subject = sheet("subject;apoe\ns1;e3\ns3;e4\n", "apoe.csv")
    by_session = sheet(
        "cohort\tsubject\tsession\tmmse\r\nx\ts1\t2\t27\r\nx\ts1\t1\t29.0\r\ny\ts3\t1\tn/a\r\n", "mmse.tsv"
    )
    cohort = read_cohort(path, tables=[by_subject, by_session])
    table = cohort.table.set_index("scan_id")
    assert table["apoe"].fillna("").tolist() == ["e3", "e3", "", "e4"]
    assert table["mmse"].tolist()[:2] == [29, 27] and table["mmse"].isna().tolist() == [False, False, True, True]
    assert cohort.summary["labels"]["apoe"]["n"] == 3
    assert "x: 1 of 3 scans have no apoe: x/s2/1/T1w" in cohort.summary["warnings"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_a_join_agrees_with_a_look_up_row_by_row(sheet, order, listed):
    rows = [f"{'xy'[i % 2]},s{i // 2},{'abcdef'[i]}.nii.gz,{'xy'[i % 2]}{i // 2}\n" for i in range(6)]
    path = sheet("cohort,subject,image,person\n" + "".join(rows))
    lines = [f"{'xy'[i % 2]},s{i // 2},{i * 7}\n" for i in order if i in listed]
    if lines:
        table = read_cohort(path, tables=[sheet("cohort,subject,score\n" + "".join(lines), "scores.csv")]).table
        for i, value in enumerate(
            table.set_index("scan_id").loc[[f"{'xy'[i % 2]}/s{i // 2}/1/T1w" for i in range(6)], "score"]
        ):
            assert value == i * 7 if i in listed else np.isnan(value)


def test_a_label_in_two_places_must_say_the_same(sheet):
    same = sheet("subject,age\ns2,40.0\ns1,n/a\n", "ages.csv")
    assert read_cohort(sheet(PLAIN), tables=[same]).table["age"].tolist()[2] == 40
    other = sheet("subject,age\ns2,41\n", "ages.csv")
    found = only(sheet(PLAIN), tables=[other])
    assert (
        found == "ages.csv, row 1 (line 2), column age: '41' here, and '40' for the scan in cohorts.csv, row 3 (line 4)"
    )


def test_rows_that_fit_no_scan_are_a_warning(sheet):
    table = sheet("subject,session,score\ns9,1,3\ns1,7,3\ns2,1,3\n", "scores.csv")
    warnings = read_cohort(sheet(PLAIN), tables=[table]).summary["warnings"]
    assert "scores.csv: 2 of 3 rows fit no scan: s9 1, s1 7" in warnings


def test_what_is_wrong_with_a_table_of_labels_is_told(sheet, tmp_path):
    path = sheet(PLAIN)
    assert "'s1' stands already in row 1" in only(path, tables=[sheet("subject,score\ns1,3\ns1,3\n", "t.csv")])
    assert "did you mean 'subjct'" in only(path, tables=[sheet("subjct,score\ns1,3\n", "t.csv")])
    assert "column image: cannot stand" in only(path, tables=[sheet("subject,image\ns1,3\n", "t.csv")])
    assert "column subject: empty" in only(path, tables=[sheet("subject,score\n,3\n", "t.csv")])
    assert "not found" in only(path, tables=[tmp_path / "none.csv"])
    assert "save it as CSV" in only(path, tables=[tmp_path / "none.xlsx"])


def test_a_subject_of_several_cohorts_needs_a_column_cohort(sheet):
    path = sheet("cohort,subject,image,person\nx,s1,a.nii.gz,p1\ny,s1,b.nii.gz,{}\n".format("p2"))
    found = only(path, tables=[sheet("subject,score\ns1,3\n", "t.csv")])
    assert "'s1' stands in the cohorts x and y (add a column cohort" in found
    told = sheet("cohort,subject,score\ny,s1,3\n", "t.csv")
    assert read_cohort(path, tables=[told]).table["score"].fillna(0).tolist() == [0, 3]
    path = sheet("cohort,subject,image,person\nx,s1,a.nii.gz,p1\ny,s1,b.nii.gz,p1\n")
    assert read_cohort(path, tables=[sheet("subject,score\ns1,3\n", "t.csv")]).table["score"].tolist() == [3, 3]


def test_a_table_may_say_who_is_one_person(sheet):
    path = sheet("cohort,subject,image\nx,s1,a.nii.gz\ny,t1,b.nii.gz\ny,t2,c.nii.gz\n")
    people = sheet("cohort,subject,person\nx,s1,anna\ny,t1,anna\n", "people.csv")
    assert read_cohort(path, tables=[people]).table["person"].tolist() == ["anna", "anna", "y/t2"]


def test_a_label_of_many_scans_that_disagrees_is_not_told_a_thousand_times(sheet):
    rows = "".join(f"x,s{i},s3://b/{i}.nii.gz,1\n" for i in range(50))
    table = "subject,score\n" + "".join(f"s{i},2\n" for i in range(50))
    found = problems(sheet("cohort,subject,image,score\n" + rows), tables=[sheet(table, "t.csv")])
    assert len(found) == 6 and "45 more cells disagree" in found[-1]


# Split files

FOUR = "cohort,subject,image,person\nx,s1,a.nii.gz,\nx,s2,b.nii.gz,\nx,s3,c.nii.gz,\ny,t1,d.nii.gz,x/s1\n"


def test_a_split_file_becomes_folds_of_persons(sheet):
    path = sheet(FOUR)
    split = sheet("subject,role\ns1,train\nt1,train\ns2,validation\ns3,test\n", "split.csv")
    summary = read_cohort(path, split_file=split).summary
    check_json("cohort", summary)
    assert summary["split_file"] == {"0": {"train": ["x/s1"], "validation": ["x/s2"], "test": ["x/s3"]}}
    rows = [
        f"{person},{role},{fold}"
        for fold in (0, 1)
        for person, role in zip(("x/s1", "x/s2", "x/s3"), ROLES[fold:] + ROLES[:fold])
    ]
    split = sheet("person,role,fold\n" + "\n".join(rows), "split.csv")
    folds = read_cohort(path, split_file=split).summary["split_file"]
    assert folds["1"] == {"train": ["x/s3"], "validation": ["x/s1"], "test": ["x/s2"]} and set(folds) == {"0", "1"}
    split = sheet("scan_id\trole\nx/s1/1/T1w\ttrain\nx/s2/1/T1w\tvalidation\nx/s3/1/T1w\ttest\n", "split.tsv")
    assert read_cohort(path, split_file=split).summary["split_file"]["0"]["test"] == ["x/s3"]
    assert read_cohort(path).summary["split_file"] is None


def test_roles_by_other_words_are_told_the_right_ones(sheet):
    path = sheet(FOUR)
    found = problems(path, split_file=sheet("subject,role\ns1,training\ns2,val\ns3,Test\ns3,tset\n", "split.csv"))
    assert [text.split("did you mean ")[1] for text in found] == ["'train'?)", "'validation'?)", "'test'?)", "'test'?)"]
    assert found[1].startswith("split.csv, row 2 (line 3), column role: 'val', expected train, validation or test")


def test_a_person_in_two_roles_of_a_fold_is_an_error_with_the_name(sheet):
    split = sheet("cohort,subject,role\nx,s1,train\ny,t1,test\nx,s2,validation\nx,s3,test\n", "split.csv")
    found = only(sheet(FOUR), split_file=split)
    assert found == "split.csv, fold 0: x/s1 is in train (row 1) and test (row 2)"


def test_what_is_wrong_with_a_split_file_is_told(sheet):
    path = sheet(FOUR)
    assert "no scan of 's9' (valid: s1, s2, s3, t1)" in only(
        path, split_file=sheet("subject,role\ns9,train\n", "s.csv")
    )
    assert "found none of them" in problems(path, split_file=sheet("name,role\ns1,train\n", "s.csv"))[0]
    assert "'role' is missing" in problems(path, split_file=sheet("subject,rolle\ns1,train\n", "s.csv"))[0]
    found = problems(path, split_file=sheet("subject,role\ns1,train\n", "s.csv"))
    assert found == ["s.csv, fold 0: nobody has the role validation", "s.csv, fold 0: nobody has the role test"]


def test_persons_of_a_cohort_that_the_split_file_leaves_out_are_a_warning(sheet):
    path = sheet(PLAIN + "x,s4,,e.nii.gz,1\n")
    split = sheet("subject,role\ns1,train\ns2,validation\ns3,test\n", "split.csv")
    warnings = read_cohort(path, split_file=split).summary["warnings"]
    assert "split.csv: 1 of 3 persons of x have no role in fold 0: x/s4" in warnings


# Time series


def test_series_and_their_confounds_are_checked_as_such(sheet, tmp_path):
    image(tmp_path / "bold.nii.gz", (4, 4, 4, 20))
    (tmp_path / "good.csv").write_text("a,b\n" + "1,2\n" * 20)
    (tmp_path / "c.tsv").write_text("trans_x\n0\n")
    (tmp_path / "empty.tsv").write_text("")
    head = "cohort,subject,modality,image,confounds\n"
    table = read_cohort(sheet(head + "x,s1,bold,bold.nii.gz,c.tsv\nx,s2,bold,good.csv,\nx,s3,,a.nii.gz,\n")).table
    assert table["confounds"][0] == str(tmp_path.resolve() / "c.tsv") and table["confounds"].isna().sum() == 2
    found = problems(sheet(head + "x,s1,bold,a.nii.gz,empty.tsv\nx,s2,T1w,good.csv,\nx,s3,bold,bold.nii.gz,gone.tsv\n"))
    assert len(found) == 4
    assert "row 1 (line 2), column image" in found[0] and "4D" in found[0]
    assert "row 2 (line 3), column image" in found[1] and "expected a NIfTI file" in found[1]
    assert "row 1 (line 2), column confounds" in found[2] and "empty" in found[2]
    assert "file not found" in found[3]


def test_many_files_are_checked_by_several_processes_with_the_same_result(sheet, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_files, "MANY", 10)
    monkeypatch.setattr(scan_files, "PART", 7)
    content = (tmp_path / "a.nii.gz").read_bytes()
    for i in range(40):
        (tmp_path / f"s{i}.nii.gz").write_bytes(content if i % 19 else b"")
    rows = "".join(f"x,s{i},s{i}.nii.gz\n" for i in range(40))
    found = problems(sheet("cohort,subject,image\n" + rows))
    assert [text.split(" (")[0] for text in found] == [f"cohorts.csv, row {row}" for row in (1, 20, 39)]


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
