import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table

from tlimb.bids import first_of, parse_name
from tlimb.cohort import chunk_files, read_cohort
from tlimb.errors import InputError

VOLUME = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))


def save(path, image=VOLUME):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def series(times=12):
    return nib.Nifti1Image(np.random.default_rng(0).normal(size=(3, 3, 3, times)).astype(np.float32), np.eye(4))


@pytest.fixture
def root(tmp_path):
    """A BIDS dataset of three subjects, the second with two sessions, the third with T1w alone."""
    root = tmp_path / "raw data"
    for scan in (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
    ):
        save(root / scan)
    (root / "dataset_description.json").write_text('{"Name": "My study (2020)", "BIDSVersion": "1.8.0"}')
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\t41.5\tn/a\nsub-03\tn/a\tM\n"
    )
    return root


def problems(path, **options) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_cohort(path, **options)
    return [str(problem) for problem in caught.value.problems]


def test_a_bids_folder_is_a_cohort(root, tmp_path):
    cohort = read_cohort(root)
    cohort.table.to_parquet(tmp_path / "cohort.parquet", index=False)
    check_table("cohort", pd.read_parquet(tmp_path / "cohort.parquet"))
    check_json("cohort", cohort.summary)
    table = cohort.table.set_index("scan_id")
    assert list(table.index) == [
        "My-study-2020/sub-01/1/T1w",
        "My-study-2020/sub-01/1/T2w",
        "My-study-2020/sub-02/ses-a/T1w",
        "My-study-2020/sub-02/ses-b/T1w",
        "My-study-2020/sub-03/1/T1w",
    ]
    assert table["image"].iloc[0] == str(root.resolve() / "sub-01/anat/sub-01_T1w.nii.gz")
    assert table["age"].tolist()[:4] == [30, 30, 41.5, 41.5] and np.isnan(table["age"].iloc[4])
    assert cohort.summary["labels"]["sex"] == {"kind": "classification", "classes": ["F", "M"], "n": 3}
    assert cohort.summary["persons"] == 3 and table["mask"].isna().all() and table["confounds"].isna().all()
    for chunk in chunk_files(cohort.table, 2).values():
        check_json("chunk", chunk)


def test_a_linked_folder_gives_the_paths_of_the_real_one(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert list(read_cohort(tmp_path / "link").table["image"]) == list(read_cohort(root).table["image"])


def test_a_dataset_without_a_name_is_called_after_its_folder(root):
    (root / "dataset_description.json").unlink()
    assert read_cohort(root).table["cohort"].unique() == ["raw-data"]
    (root / "dataset_description.json").write_text("{")
    assert "not valid JSON" in problems(root)[0]


def test_participants_and_scans_that_have_no_counterpart_are_warnings(root):
    (root / "participants.tsv").write_text("participant_id\tage\n02\t41.5\nsub-09\t1\n")
    warnings = read_cohort(root).summary["warnings"]
    assert "My-study-2020: 1 of 2 rows of participants.tsv have no scan: sub-09" in warnings
    assert "My-study-2020: 2 subjects stand in no row of participants.tsv: sub-01, sub-03" in warnings
    (root / "participants.tsv").unlink()
    assert "My-study-2020: there is no participants.tsv" in read_cohort(root).summary["warnings"]


def test_a_participant_twice_or_a_table_without_ids_is_an_error(root):
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t3\n01\t4\n")
    assert (
        "participants.tsv, row 2 (line 3), column participant_id: sub-01 stands already in row 1" in problems(root)[0]
    )
    (root / "participants.tsv").write_text("participant\tage\nsub-01\t3\n")
    assert "did you mean 'participant'?" in problems(root)[0]


def test_labels_by_session_come_before_those_by_participant(root):
    (root / "sub-02/sub-02_sessions.tsv").write_text(
        "session_id\tage\tscore\tacq_time\nses-a\t42\t7\t2020\nb\tn/a\t8\t2021\n"
    )
    table = read_cohort(root).table.set_index("scan_id")
    assert table.loc["My-study-2020/sub-02/ses-a/T1w", ["age", "score"]].tolist() == [42, 7]
    assert table.loc["My-study-2020/sub-02/ses-b/T1w", ["age", "score"]].tolist() == [41.5, 8]
    assert "acq_time" not in table
    (root / "sessions.tsv").write_text("participant_id\tsession_id\tsite\nsub-02\tses-a\tx\n02\tses-b\ty\n")
    assert read_cohort(root).table["site"].tolist()[2:4] == ["x", "y"]


def test_what_is_wrong_with_tables_of_sessions_is_told_all_at_once(root):
    (root / "sub-01/sub-01_sessions.tsv").write_text("")
    (root / "sub-02/sub-02_sessions.tsv").write_text("session_id\tscore\nses-a\t7\na\t8\n")
    (root / "sub-03/sub-03_sessions.tsv").write_text("session_id\tscore\nses-1\t7\t8\n")
    (root / "sessions.tsv").write_text("participant_id\tsession_id\tage\nsub-02\tb\t1\n02\tses-b\t2\n")
    assert problems(root) == [
        "sessions.tsv, row 2 (line 3), column session_id: sub-02 ses-b stands already in row 1",
        "sub-01_sessions.tsv: the table of sessions is empty (expected the columns session_id)",
        "sub-02_sessions.tsv, row 2 (line 3), column session_id: sub-02 ses-a stands already in row 1",
        "sub-03_sessions.tsv, row 1 (line 2): 3 cells, the header has 2",
    ]


def test_folders_that_cannot_be_read_are_told_all_at_once(root):
    for subject in ("sub-01", "sub-03"):
        (root / subject / "func").symlink_to("func")
    assert problems(root) == [
        f"{root}/{subject}/func: cannot be read: Too many levels of symbolic links" for subject in ("sub-01", "sub-03")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_told(root):
    for folder in (root / "sub-02", root):
        folder.chmod(0)
        try:
            assert problems(root) == [f"{folder}: cannot be read: Permission denied"]
        finally:
            folder.chmod(0o755)


def test_persons_that_are_not_known_are_strangers(root, tmp_path):
    (root / "participants.tsv").write_text("participant_id\tperson\nsub-01\tn/a\nsub-02\tn/a\nsub-03\tp3\n")
    persons = set(read_cohort(root).table["person"])
    assert persons == {"My-study-2020/sub-01", "My-study-2020/sub-02", "p3"}
    (tmp_path / "cohorts.csv").write_text(
        "cohort,subject,image,modality,session,person\nx,,raw data,n/a,n/a,n/a\n"
    )
    assert set(read_cohort(tmp_path / "cohorts.csv").table["person"]) == {"x/sub-01", "x/sub-02", "p3"}


def test_columns_with_names_of_tlimbs_own_are_renamed_and_person_is_a_person(root):
    (root / "participants.tsv").write_text(
        "participant_id\tsplit\tperson\nsub-01\ttrain\tp1\nsub-02\ttest\tp1\nsub-03\ttest\tp3\n"
    )
    cohort = read_cohort(root)
    assert cohort.table["participants_split"].tolist() == ["train", "train", "test", "test", "test"]
    assert sorted(set(cohort.table["person"])) == ["p1", "p3"]
    assert any("the column split" in warning for warning in cohort.summary["warnings"])


def test_of_several_files_for_one_scan_the_first_without_acq_is_taken_and_the_rest_is_told(root):
    anat = root / "sub-01/anat"
    (anat / "sub-01_T1w.nii.gz").unlink()
    for name in ("acq-a_T1w", "run-10_T1w", "run-2_T1w", "run-2_part-phase_T1w"):
        save(anat / f"sub-01_{name}.nii.gz")
    cohort = read_cohort(root)
    assert cohort.table["image"].iloc[0].endswith("/sub-01_run-2_T1w.nii.gz")
    (warning,) = [text for text in cohort.summary["warnings"] if "passed over" in text]
    assert "3 files passed over" in warning and "sub-01_acq-a_T1w" in warning and "sub-01_run-10_T1w" in warning


def test_one_rule_orders_files_whatever_order_they_come_in():
    names = ["sub-1_T1w", "sub-1_rec-x_T1w", "sub-1_run-2_T1w", "sub-1_run-10_T1w", "sub-1_acq-a_T1w"]
    parsed = [parse_name(f"{name}.nii") for name in names]
    rng = np.random.default_rng(0)
    for _ in range(20):
        shuffled = [parsed[place] for place in rng.permutation(len(parsed))]
        assert [name.path.removesuffix(".nii") for name in first_of(shuffled)] == names
    assert parse_name("sub-1_T1w.json") is None and parse_name("notes.nii.gz") is None


def test_masks_segmentations_and_parts_of_collections_are_no_scans(root):
    anat = root / "sub-03/anat"
    for name in ("label-GM_probseg", "desc-aseg_dseg", "desc-brain_mask", "inv-1_MP2RAGE", "mod-T1w_defacemask"):
        save(anat / f"sub-03_{name}.nii.gz")
    assert len(read_cohort(root).table) == 5


def test_functional_series_come_with_their_confounds(root):
    func = root / "sub-01/func"
    for task in ("rest", "aaa"):
        save(func / f"sub-01_task-{task}_run-1_bold.nii.gz", series())
        (func / f"sub-01_task-{task}_run-1_desc-confounds_timeseries.tsv").write_text("a\n1\n")
    save(func / "sub-01_task-rest_run-2_bold.nii.gz", series())
    cohort = read_cohort(root)
    bold = cohort.table[cohort.table["modality"] == "bold"].iloc[0]
    assert os.path.basename(bold["image"]) == "sub-01_task-rest_run-1_bold.nii.gz"
    assert os.path.basename(bold["confounds"]) == "sub-01_task-rest_run-1_desc-confounds_timeseries.tsv"
    check_json("chunk", chunk_files(cohort.table, 64)["all"])
    assert sum("passed over" in warning for warning in cohort.summary["warnings"]) == 1
    assert sum("not in MNI space" in warning for warning in cohort.summary["warnings"]) == 1


def test_a_derivative_gives_preprocessed_images_in_mni_space_with_their_masks(tmp_path):
    root = tmp_path / "fmriprep"
    anat, func = root / "sub-01/ses-1/anat", root / "sub-01/ses-1/func"
    mni = "sub-01_ses-1_{}space-MNI152NLin2009cAsym_"
    for name in ("sub-01_ses-1_", mni.format("")):
        save(anat / f"{name}desc-preproc_T1w.nii.gz")
        save(anat / f"{name}desc-brain_mask.nii.gz")
        save(anat / f"{name}label-GM_probseg.nii.gz")
    save(func / f"{mni.format('task-rest_')}desc-preproc_bold.nii.gz", series())
    save(func / f"{mni.format('task-rest_')}boldref.nii.gz")
    save(func / "sub-01_ses-1_task-rest_space-T1w_desc-preproc_bold.nii.gz", series())
    (func / "sub-01_ses-1_task-rest_desc-confounds_timeseries.tsv").write_text("trans_x\n0\n")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "fMRIPrep", "DatasetType": "derivative"}))
    table = read_cohort(root).table.set_index("modality")
    assert list(table.index) == ["T1w", "bold"] and set(table["session"]) == {"ses-1"}
    assert os.path.basename(table.at["T1w", "image"]) == f"{mni.format('')}desc-preproc_T1w.nii.gz"
    assert os.path.basename(table.at["T1w", "mask"]) == f"{mni.format('')}desc-brain_mask.nii.gz"
    assert os.path.basename(table.at["bold", "image"]) == f"{mni.format('task-rest_')}desc-preproc_bold.nii.gz"
    assert table.at["bold", "confounds"].endswith("_desc-confounds_timeseries.tsv") and pd.isna(
        table.at["bold", "mask"]
    )


def test_a_broken_image_is_a_warning_for_it_will_be_left_out_and_a_missing_one_a_problem(root):
    (root / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"")
    warnings = read_cohort(root).summary["warnings"]
    assert any(text.startswith("sub-03/anat/sub-03_T1w.nii.gz will be left out: ") and "empty" in text for text in warnings)
    (root / "sub-03/anat/sub-03_T1w.nii.gz").unlink()
    (root / "sub-03/anat/sub-03_T1w.nii.gz").symlink_to("nowhere")
    assert "a link to a file that is not there" in problems(root)[0]


def test_a_folder_that_is_no_dataset_says_so_and_names_one_inside(root, tmp_path):
    assert f"did you mean {tmp_path}/raw data?" in problems(tmp_path)[0]
    (tmp_path / "empty" / "sub-01").mkdir(parents=True)
    assert "no scan in it; expected files as sub-01/anat/sub-01_T1w.nii.gz" in problems(tmp_path / "empty")[0]


# Rows of a samplesheet that name a dataset


@pytest.fixture
def sheet(root, tmp_path):
    def write(text):
        save(tmp_path / "a b.nii.gz")
        (tmp_path / "cohorts.csv").write_text(text)
        return tmp_path / "cohorts.csv"

    return write


def test_a_row_that_names_a_folder_stands_for_its_scans(sheet):
    cohort = read_cohort(
        sheet("cohort,subject,image,modality,site,age\nclinic,,raw data,T1w,berlin,50\nown,s1,a b.nii.gz,T2w,paris,7\n")
    )
    table = cohort.table.set_index("scan_id")
    assert len(table) == 5 and set(table["cohort"]) == {"clinic", "own"}
    assert set(table.loc[table["cohort"] == "clinic", "site"]) == {"berlin"}
    assert table.at["clinic/sub-01/1/T1w", "age"] == 30 and table.at["clinic/sub-03/1/T1w", "age"] == 50
    assert table.at["own/s1/1/T2w", "age"] == 7 and pd.isna(table.at["own/s1/1/T2w", "sex"])


def test_modalities_of_a_folder_are_named_in_one_cell(sheet):
    table = read_cohort(sheet("cohort,subject,image,modality\nclinic,*,raw data,T1w T2w\n")).table
    assert sorted(table["modality"]) == ["T1w", "T1w", "T1w", "T1w", "T2w"]
    assert len(read_cohort(sheet("cohort,subject,image\n,,raw data\n")).table) == 5
    (problem,) = problems(sheet("cohort,subject,image,modality\nclinic,*,raw data,T2\n"))
    assert problem.startswith("cohorts.csv, row 1 (line 2): ") and "no scan of modality T2 (did you mean" in problem
    assert "no scan of modality FLAIR" in problems(sheet("cohort,subject,image,modality\nx,,raw data,T1w FLAIR\n"))[0]
    (problem,) = problems(sheet("cohort,subject,image\nmy clinic,,raw data\n"))
    assert "cohorts.csv, row 1 (line 2), column cohort: 'my clinic' holds other characters" in problem


def test_what_is_wrong_with_a_row_for_a_folder_is_told_with_everything_else(sheet, root):
    (root / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"")
    found = problems(sheet("cohort,subject,image,session\nx,,raw data,1\ny,,raw data,\nz,,nowhere,\nw,s1,raw data,\n"))
    assert found[0] == "cohorts.csv, row 1 (line 2), column session: expected an empty cell where the image is a folder"
    assert not any("sub-03_T1w.nii.gz" in text for text in found)
    assert any(text.startswith("cohorts.csv, row 3 (line 4), column subject: empty") for text in found)
    assert any("leave subject empty to read a folder as a BIDS dataset" in text for text in found)


def test_two_datasets_with_the_same_names_ask_who_is_who_and_one_cell_answers(sheet, tmp_path):
    for number in range(1, 4):
        save(tmp_path / f"other/sub-0{number}/anat/sub-0{number}_T1w.nii.gz")
    rows = "cohort,subject,image,modality,person\nx,,raw data,T1w,{}\ny,,other,,{}\n"
    (problem,) = problems(sheet(rows.format("", "")))
    assert "for a BIDS folder, one name for the whole of it" in problem
    assert read_cohort(sheet(rows.format("x", "y"))).summary["persons"] == 6
    assert read_cohort(sheet(rows.format("study", "study"))).summary["persons"] == 3
