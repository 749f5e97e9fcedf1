import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tlimb.cli import main
from tlimb.cohort import read_cohort
from tlimb.errors import InputError
from tlimb.layouts import LAYOUTS
from tlimb.layouts.archive import Archive
from tlimb.layouts.command import write_samplesheet
from tlimb.layouts.contrast import contrast

SHAPE = (4, 5, 6)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)


@pytest.fixture
def tree(tmp_path):
    """Writes tiny images and tables under a folder `root` and reads the samplesheet that a layout makes of it."""

    def write(*images, **tables):
        for name in images:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (*SHAPE, 9) if "rfMRI" in name else SHAPE
            nib.save(nib.Nifti1Image(np.resize(VOXELS, shape), np.eye(4)), path)
        for name, text in tables.items():
            (tmp_path / f"{name}.csv").write_text(text)
        return Tree(tmp_path, [tmp_path / f"{name}.csv" for name in tables])

    return write


class Tree:
    """A small archive, and what a layout makes of it."""

    def __init__(self, folder, tables):
        self.folder, self.tables, self.root = folder, tables, folder / "root"

    def sheet(self, layout: str, keep=(), root=None) -> pd.DataFrame:
        """The checked table of scans by scan_id without the cohort; the samplesheet must pass every check."""
        out = self.folder / "cohort.csv"
        archive = Archive(root or self.root, self.tables, self.folder / "images", keep)
        self.remarks = write_samplesheet(layout, archive, out).remarks
        table = read_cohort(out).table
        assert set(table["cohort"]) == {layout}
        return table.assign(scan=table["scan_id"].str.removeprefix(f"{layout}/")).set_index("scan")

    def problems(self, layout: str, **options) -> list[str]:
        with pytest.raises(InputError) as caught:
            self.sheet(layout, **options)
        return [str(problem) for problem in caught.value.problems]


IXI_TABLE = (
    '"IXI_ID","SEX_ID (1=m, 2=f)","HEIGHT","AGE"\n'
    "2.0,2,164,35.800137\n12,1,175,38.78\n13,1,182,46.71\n16,0,0,\n16,2,165,55\n99,1,1,1\n13,1,182,64\n"
)


def test_ixi(tree):
    ixi = tree(
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-T1/IXI012-HH-1211-T1.nii.gz",
        "IXI-PD/IXI013-HH-1212-PD.nii.gz",
        "IXI-T1/IXI016-Guys-0697-T1.nii.gz",
        "IXI-T1/IXI100-IOP-1-T1.nii.gz",
        "IXI-MRA/IXI002-Guys-0828-MRA.nii.gz",
        IXI=IXI_TABLE,
    )
    table = ixi.sheet("ixi", keep=["HEIGHT"])
    assert list(table.index) == [
        "IXI002/1/T1w", "IXI002/1/T2w", "IXI012/1/T1w", "IXI013/1/PDw", "IXI016/1/T1w", "IXI100/1/T1w",
    ]  # fmt: skip
    assert table.loc["IXI002/1/T2w", ["age", "sex", "site", "HEIGHT"]].tolist() == [35.800137, "F", "Guys", 164]
    assert table.loc["IXI016/1/T1w", ["age", "sex"]].tolist() == [55, "F"]
    assert np.isnan(table.loc["IXI013/1/PDw", "age"]) and table.loc["IXI013/1/PDw", "sex"] == "M"
    assert any(
        text.startswith("rows of one subject that disagree were left empty: age of IXI013") for text in ixi.remarks
    )
    assert "1 subjects have no row in the table: IXI100" in ixi.remarks


def test_oasis1(tree):
    images = [
        f"disc1/OAS1_000{i}/PROCESSED/MPRAGE/SUBJ_111/OAS1_000{i}_mpr_n4_anon_sbj_111.img"
        for i in ("1_MR1", "2_MR1", "2_MR2")
    ]
    oasis = tree(
        oasis="ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV\nOAS1_0001_MR1,F,R,74,2,3,29,0,1344\nOAS1_0002_MR1,M,R,55,4,1,,0.5,1147\n"
    )
    for name in images:
        (oasis.root / name).parent.mkdir(parents=True)
        nib.save(nib.AnalyzeImage(VOXELS[..., None].astype(">i2"), None), oasis.root / name)
    table = oasis.sheet("oasis1")
    assert list(table.index) == ["OAS1_0001/MR1/T1w", "OAS1_0002/MR1/T1w", "OAS1_0002/MR2/T1w"]
    assert table["person"].nunique() == 2
    assert table.loc["OAS1_0002/MR1/T1w", ["age", "sex", "cdr", "education"]].tolist() == [55, "M", 0.5, 4]
    made = nib.load(table["image"].iloc[0])
    np.testing.assert_array_equal(made.get_fdata(), VOXELS)
    assert nib.aff2axcodes(made.affine) == ("A", "S", "L")
    np.testing.assert_allclose(made.affine @ [*(np.array(SHAPE) / 2), 1], [0, 0, 0, 1])


OASIS3 = "OAS3000{}_MR_d{}/anat{}/NIFTI/sub-OAS3000{}_ses-d{}_{}.nii.gz"


def test_oasis3(tree):
    oasis = tree(
        OASIS3.format(1, "0129", 2, 1, "0129", "run-01_T1w"),
        OASIS3.format(1, "0129", 3, 1, "0129", "run-02_T1w"),
        OASIS3.format(1, "2430", 1, 1, "2430", "T2w"),
        OASIS3.format(2, "0371", 1, 2, "0371", "T1w"),
        OASIS3.format(2, "0371", 4, 2, "0371", "minIP"),
        demographics="OASISID,AgeatEntry,GENDER,EDUC\nOAS30001,65.15,2,16\nOAS30002,67.25,1,18\n",
        cdr=(
            "OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRTOT,dx1\n"
            "OAS30001,OAS30001_UDSb4_d0000,0,65.15,28,0,Cognitively normal\n"
            "OAS30001,OAS30001_UDSb4_d2400,2400,71.7,20,1,AD Dementia\n"
            "OAS30001,OAS30001_UDSb4_d2425,2425,71.8,,,\n"
            "OAS30002,OAS30002_UDSb4_d2000,2000,72,30,0,Cognitively normal\n"
        ),
    )
    table = oasis.sheet("oasis3")
    assert list(table.index) == ["OAS30001/d0129/T1w", "OAS30001/d2430/T2w", "OAS30002/d0371/T1w"]
    assert table["image"].iloc[0].endswith("run-01_T1w.nii.gz")
    assert table.loc["OAS30001/d0129/T1w", ["cdr", "mmse", "diagnosis", "sex"]].tolist() == [
        0,
        28,
        "Cognitively normal",
        "F",
    ]
    assert table.loc["OAS30001/d2430/T2w", ["cdr", "diagnosis"]].tolist() == [1, "AD Dementia"]
    assert np.isnan(table.loc["OAS30002/d0371/T1w", "cdr"])
    np.testing.assert_allclose(
        table["age"], [65.15 + 129 / 365.25, 65.15 + 2430 / 365.25, 67.25 + 371 / 365.25], atol=0.006
    )
    assert any("1 files passed over" in text for text in oasis.remarks)


def test_oasis3_as_it_was_released_before(tree):
    oasis = tree(
        OASIS3.format(1, "0129", 2, 1, "0129", "T1w"),
        subjects="Subject,M/F,YOB\nOAS30001,F,1950\n",
        adrc="ADRC_ADRCCLINICALDATA ID,Subject,mmse,ageAtEntry,cdr,dx1\n"
        "OAS30001_ClinicalData_d0100,OAS30001,28,65.0,0,CN\n",
    )
    table = oasis.sheet("oasis3")
    assert table.iloc[0][["sex", "cdr", "mmse"]].tolist() == ["F", 0, 28] and abs(table["age"].iloc[0] - 65.353) < 0.006


@pytest.mark.parametrize(
    "columns",
    [
        "eid,31-0.0,21003-0.0,21003-2.0,21003-3.0,54-2.0",
        "eid,p31,p21003_i0,p21003_i2,p21003_i3,p54_i2",
        "f.eid,f.31.0.0,f.21003.0.0,f.21003.2.0,f.21003.3.0,f.54.2.0",
    ],
)
def test_ukb(tree, columns):
    ukb = tree(
        "1000223_20252_2_0/T1/T1.nii.gz",
        "1000223_20252_3_0/T1/T1.nii.gz",
        "1000223_20252_2_0/T1/T1_brain.nii.gz",
        "1000223_20253_2_0/T2_FLAIR/T2_FLAIR.nii.gz",
        "2000001/20252_2_0/T1/T1.nii.gz",
        ukb=f"{columns}\n1000223,0,50,62,66,11025\n2000001,1,48,60,,11026\n3000003,1,1,1,1,1\n",
    )
    table = ukb.sheet("ukb")
    assert list(table.index) == ["1000223/2/FLAIR", "1000223/2/T1w", "1000223/3/T1w", "2000001/2/T1w"]
    assert table["age"].tolist() == [62, 62, 66, 60] and table["sex"].tolist() == ["F", "F", "F", "M"]
    assert table["site"].fillna(0).tolist() == [11025, 11025, 0, 11026]


def test_ukb_that_is_still_packed_says_so(tree):
    ukb = tree()
    ukb.root.mkdir()
    (ukb.root / "1000223_20252_2_0.zip").touch()
    assert "unpack" in ukb.problems("ukb")[0]


def test_hcp_images(tree):
    results = "100307/MNINonLinear/Results/rfMRI_REST{}/rfMRI_REST{}"
    hcp = tree(
        "100307/T1w/T1w_acpc_dc_restore.nii.gz",
        "100307/T1w/T2w_acpc_dc_restore.nii.gz",
        "100307/T1w/T1w_acpc_dc_restore_brain.nii.gz",
        results.format("1_LR", "1_LR") + ".nii.gz",
        results.format("1_LR", "1_LR") + "_hp2000_clean.nii.gz",
        results.format("2_RL", "2_RL") + ".nii.gz",
        "100408/T1w/T1w_acpc_dc_restore.nii.gz",
        open="Subject,Release,Acquisition,Gender,Age,PMAT24_A_CR\n100307,Q1,Q01,F,26-30,17\n100408,Q3,Q03,M,31-35,19\n",
        restricted="Subject,Age_in_Yrs,Family_ID\n100307,27,51488_81149\n100408,33,51730_81345\n",
    )
    table = hcp.sheet("hcp", keep=["PMAT24_A_CR"])
    assert list(table.index) == [
        "100307/1/T1w", "100307/1/T2w", "100307/REST1-LR/bold", "100307/REST2-RL/bold", "100408/1/T1w",
    ]  # fmt: skip
    assert table.at["100307/REST1-LR/bold", "image"].endswith("_hp2000_clean.nii.gz")
    assert table.loc["100408/1/T1w", ["sex", "age_range", "age", "PMAT24_A_CR"]].tolist() == ["M", "31-35", 33, 19]
    assert table["family"].nunique() == 2


def test_hcp_parcellated_series(tree):
    hcp = tree(open="Subject,Gender,Age\n100206,M,26-30\n")
    for nodes in ("d15", "d50"):
        folder = hcp.root / "node_timeseries" / f"3T_HCP1200_MSMAll_{nodes}_ts2"
        folder.mkdir(parents=True)
        for subject in ("100206", "100307"):
            np.savetxt(folder / f"{subject}.txt", np.random.default_rng(0).normal(size=(40, 15)))
    assert "name one of these folders as the root" in hcp.problems("hcp")[0]
    table = hcp.sheet("hcp", root=hcp.root / "node_timeseries" / "3T_HCP1200_MSMAll_d15_ts2")
    assert list(table.index) == ["100206/1/bold", "100307/1/bold"] and table["sex"].fillna("").tolist() == ["M", ""]


ADNI = "ADNI/{0}/{1}/{2}_08_20_30.0/{3}/ADNI_{0}_MR_{1}_Br_20070319113623975_S13408_{3}.nii"


def adni_images():
    return (
        ADNI.format("002_S_0295", "MP-RAGE", "2006-04-18", "I13722"),
        ADNI.format("002_S_0295", "MP-RAGE_REPEAT", "2006-04-18", "I13721"),
        ADNI.format("002_S_0295", "MPR__GradWarp__B1_Correction__N3__Scaled", "2006-04-18", "I45108"),
        ADNI.format("002_S_0295", "MP-RAGE", "2007-05-25", "I55275"),
        ADNI.format("002_S_0413", "Sagittal_3D_FLAIR", "2017-06-21", "I863056"),
        ADNI.format("002_S_0413", "Axial_rsfMRI__Eyes_Open_", "2017-06-21", "I863060"),
        ADNI.format("002_S_0413", "Accelerated_Sagittal_MPRAGE", "2017-06-21", "I863058"),
    )


COLLECTION = (
    '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format"\n'
    '"I45108","002_S_0295","CN","M","85","sc","MRI","MPR; GradWarp","Processed","4/18/2006","NiFTI"\n'
    '"863058","002_S_0413","CN","F","88","y1","MRI","Accelerated","Original","6/21/2017","NiFTI"\n'
)


def test_adni_by_its_collection(tree):
    adni = tree(*adni_images(), collection=COLLECTION)
    table = adni.sheet("adni")
    assert list(table.index) == [
        "002_S_0295/2006-04-18/T1w",
        "002_S_0295/2007-05-25/T1w",
        "002_S_0413/2017-06-21/FLAIR",
        "002_S_0413/2017-06-21/T1w",
    ]
    assert table["image"].iloc[0].endswith("_I45108.nii")
    assert table.loc["002_S_0295/2006-04-18/T1w", ["diagnosis", "sex", "age", "visit"]].tolist() == [
        "CN",
        "M",
        85,
        "sc",
    ]
    assert table.loc["002_S_0413/2017-06-21/T1w", "visit"] == "y1"
    assert any("Axial_rsfMRI__Eyes_Open_" in text for text in adni.remarks)
    assert any(text.startswith("2 files passed over") and "I13721" in text for text in adni.remarks)


def test_adni_by_adnimerge_takes_the_visit_nearest_to_the_scan(tree):
    merge = (
        "RID,PTID,VISCODE,EXAMDATE,DX_bl,AGE,PTGENDER,DX,MMSE,EXAMDATE_bl\n"
        "295,002_S_0295,bl,2006-05-01,CN,84.8,Male,CN,28,2006-05-01\n295,002_S_0295,m12,2007-05-20,CN,84.8,Male,MCI,27,2006-05-01\n"
        "413,002_S_0413,bl,2006-05-02,CN,76.3,Female,CN,29,2006-05-02\n"
    )
    table = tree(*adni_images(), merge=merge).sheet("adni")
    first, second = table.loc["002_S_0295/2006-04-18/T1w"], table.loc["002_S_0295/2007-05-25/T1w"]
    assert [first["diagnosis"], second["diagnosis"], second["mmse"], second["sex"]] == ["CN", "MCI", 27, "M"]
    assert abs(first["age"] - (84.8 - 13 / 365.25)) < 0.006 and abs(second["age"] - (84.8 + 389 / 365.25)) < 0.006
    assert pd.isna(table.loc["002_S_0413/2017-06-21/T1w", "diagnosis"])


def test_adni_by_both_tables_has_the_diagnoses_of_adnimerge_alone(tree):
    merge = "PTID,EXAMDATE,DX,PTGENDER\n002_S_0295,2007-05-20,Dementia,Male\n"
    collection = COLLECTION.replace('"CN"', '"AD"')
    table = tree(*adni_images(), merge=merge, collection=collection).sheet("adni")
    assert table["diagnosis"].fillna("").to_dict() == {
        "002_S_0295/2006-04-18/T1w": "",
        "002_S_0295/2007-05-25/T1w": "Dementia",
        "002_S_0413/2017-06-21/FLAIR": "",
        "002_S_0413/2017-06-21/T1w": "",
    }
    assert table.loc["002_S_0295/2006-04-18/T1w", ["sex", "age"]].tolist() == ["M", 85]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("MPRAGE", "T1w"), ("MP-RAGE_REPEAT", "T1w"), ("SAG_3D_MPRAGE", "T1w"), ("Sag_IR-SPGR", "T1w"),
        ("SAG_FSPGR_3D", "T1w"), ("Accelerated_Sagittal_IR-FSPGR", "T1w"), ("T1-anatomical", "T1w"),
        ("AXIAL_T2_FLAIR", "FLAIR"), ("3D_T2_FLAIR", "FLAIR"), ("T2_in_T1-anatomical_space", "T2w"), ("AX_T2", "T2w"),
        ("Axial_T2_STAR", "T2starw"), ("Axial_PD_T2_FSE", ""), ("AX_DUAL_TSE", ""), ("3-plane_localizer", ""),
        ("Axial_rsfMRI", ""), ("DTI_gated", ""), ("HighResHippocampus", ""), ("SAG_T1_GRE", "T1w"),
        ("AX_T2*_GRE", "T2starw"), ("FA_MAP_T1", ""), ("T2-weighted", "T2w"), ("PDw", "PDw"), ("T2starw", "T2starw"),
    ],
)  # fmt: skip
def test_the_contrast_of_a_description(description, expected):
    assert contrast(description) == expected


def test_ppmi_has_both_contrasts(tree):
    name = "PPMI/{0}/{1}/2011-04-13_12_07_16.0/S107254/PPMI_{0}_MR_{1}_Br_20130506104300521_S107254_I{2}.nii"
    ppmi = tree(
        name.format(3107, "MPRAGE_GRAPPA", 370155),
        name.format(3107, "T2_in_T1-anatomical_space", 370156),
        name.format(3108, "SAG_FSPGR_3D", 370157),
        collection='"Image Data ID","Subject","Group","Sex","Age","Visit"\n"I370155","3107","PD","M","60","BL"\n'
        '"I370156","3107","PD","M","60","BL"\n"I370157","3108","Control","F","55","SC"\n',
    )
    table = ppmi.sheet("ppmi")
    assert list(table.index) == ["3107/2011-04-13/T1w", "3107/2011-04-13/T2w", "3108/2011-04-13/T1w"]
    assert table["diagnosis"].tolist() == ["PD", "PD", "Control"] and table["age"].tolist() == [60, 60, 55]


def test_idss_and_what_trans_mri_prepared_like_it(tree):
    idss = tree(
        "mri/p1_a.nii.gz",
        "mri/p1_b.nii.gz",
        "mri/p2.nii.gz",
        table="file_path,DX,PTID,Age\nmri/p1_a.nii.gz,AD,p 1,70\n",
    )
    with open(idss.tables[0], "a") as handle:
        handle.write(f"mri/p1_b.nii.gz,AD,p 1,71\n{idss.root}/mri/p2.nii.gz,CVD,p2,80\n")
    table = idss.sheet("idss")
    assert list(table.index) == ["p-1/1/T1w", "p-1/2/T1w", "p2/1/T1w"]
    assert table["diagnosis"].tolist() == ["AD", "AD", "CVD"] and table["age"].tolist() == [70, 71, 80]


def test_a_table_that_lists_images_tells_their_contrast(tree):
    cells = ["T2-weighted", "FLAIR", "bold", "", "T1", "PDw", "n/a", "MRI", "T2 WEIGHTED"]
    names = [f"p{number}.nii.gz" for number in range(len(cells))]
    rows = "".join(f"{name},AD,p{number},{cells[number]}\n" for number, name in enumerate(names))
    idss = tree(*names, table=f"file_path,DX,PTID,Modality\n{rows}")
    expected = ["T2w", "FLAIR", "T1w", "T1w", "PDw", "T1w", "T1w", "T2w"]
    assert idss.sheet("idss")["modality"].tolist() == expected
    assert idss.remarks == ["1 rows of no known contrast passed over: bold"]
    bold = tree("p0.nii.gz", table="file_path,DX,PTID,Modality\np0.nii.gz,AD,p0,bold\n")
    assert "names no structural contrast, found bold" in bold.problems("idss")[0]


def test_adni_as_trans_mri_prepared_it(tree):
    adni = tree(
        "002_S_0295/Month12/002_S_0295_5-25-2007_Month12_55275_CN_Warped.nii.gz",
        table="PTID,Visit,Scan.Date,Image.ID,DX\n002_S_0295,Month 12,5/25/2007,55275,CN\n",
    )
    table = adni.sheet("adni")
    assert list(table.index) == ["002_S_0295/Month12/T1w"] and table["diagnosis"].tolist() == ["CN"]


def test_openbhb(tree):
    affine = np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1.0]])
    bhb = tree()
    for split, subject in (("train", "100053248969"), ("val", "987104978112")):
        folder = bhb.root / split / "derivatives" / f"sub-{subject}" / "ses-1"
        folder.mkdir(parents=True)
        np.save(folder / f"sub-{subject}_preproc-quasiraw_T1w.npy", VOXELS[None, None].astype(np.float32))
        np.save(folder / f"sub-{subject}_preproc-freesurfer_desc-xhemi_T1w.npy", np.zeros((1, 8, 4)))
    (bhb.root / "participants.tsv").write_text(
        "participant_id\tstudy\tsex\tage\tsite\tsiteXacq\tsplit\n100053248969\tIXI\tmale\t21.5\t3\t7\ttrain\n"
        "987104978112\tNPC\tfemale\t33\t9\t12\texternal_test\n"
    )
    assert "says where the arrays lie in space" in bhb.problems("openbhb")[0]
    (bhb.root / "resource").mkdir()
    reference = bhb.root / "resource" / "quasiraw_space-MNI152_desc-brain_T1w.nii.gz"
    nib.save(nib.Nifti1Image(VOXELS[:3], affine), reference)
    assert all("has the shape (4, 5, 6)" in text for text in bhb.problems("openbhb"))
    nib.save(nib.Nifti1Image(VOXELS, affine), reference)
    table = bhb.sheet("openbhb")
    assert (
        table["age"].tolist() == [21.5, 33]
        and table["sex"].tolist() == ["M", "F"]
        and table["site"].tolist() == [7, 12]
    )
    assert table["openbhb_split"].tolist() == ["train", "external_test"]
    made = nib.load(table["image"].iloc[0])
    np.testing.assert_array_equal(made.get_fdata(), VOXELS)
    np.testing.assert_array_equal(made.affine, affine)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "idss"])
def test_a_root_that_holds_something_else_says_what_was_looked_for(tree, layout):
    other = tree("sub-01/anat/picture.nii.gz")
    assert "nothing found that is named" in other.problems(layout)[0]


@pytest.mark.parametrize(
    ("layout", "image", "header", "hint"),
    [
        ("ixi", "IXI002-Guys-0828-T1.nii.gz", "IXI ID,AGE,SEX_ID", "did you mean 'IXI ID'"),
        ("ukb", "1000223_20252_2_0/T1/T1.nii.gz", "id,31-0.0", "did you mean 'id'"),
        ("hcp", "100307/T1w/T1w_acpc_dc_restore.nii.gz", "Subjects,Gender", "did you mean 'Subjects'"),
        (
            "adni",
            ADNI.format("002_S_0295", "MPRAGE", "2006-04-18", "I13722"),
            "Image,Subject",
            "'Image Data ID' is missing",
        ),
        ("idss", "a.nii.gz", "PTID,DX,filepath", "did you mean 'filepath'"),
    ],
)
def test_a_table_without_a_needed_column_names_the_nearest(tree, layout, image, header, hint):
    assert any(hint in text for text in tree(image, table=f"{header}\n").problems(layout))


def test_without_tables_there_are_no_labels_and_a_word_on_which_to_give(tree):
    ixi = tree("IXI002-Guys-0828-T1.nii.gz")
    assert "sex" not in ixi.sheet("ixi") and "no labels; give IXI.csv (IXI_ID, AGE, SEX_ID) with --table" in ixi.remarks
    assert "no table has the column 'ages'" in ixi.problems("ixi", keep=["ages"])[0]


def test_the_command_writes_a_sheet_with_relative_paths_and_tells_what_it_holds(tree):
    ixi = tree("IXI002-Guys-0828-T1.nii.gz", IXI=IXI_TABLE)
    out = ixi.folder / "sheet.csv"
    arguments = [
        "samplesheet",
        "ixi",
        str(ixi.root),
        "--out",
        str(out),
        "--table",
        str(ixi.tables[0]),
        "--cohort",
        "london",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "1 scans of 1 subjects (1 T1w)" in done.output and "labels: site (1), age (1), sex (1)" in done.output
    assert pd.read_csv(out)["image"].tolist() == ["root/IXI002-Guys-0828-T1.nii.gz"]
    assert read_cohort(out).table["scan_id"].tolist() == ["london/IXI002/1/T1w"]


def test_the_help_lists_the_layouts_and_a_bad_root_is_told_plainly(tmp_path, capfd):
    text = CliRunner().invoke(main, ["samplesheet", "--help"]).output
    assert all(name in text for name in LAYOUTS)
    done = CliRunner().invoke(main, ["samplesheet", "ixi", str(tmp_path / "none"), "--out", str(tmp_path / "x.csv")])
    assert done.exit_code == 1 and "no such folder" in done.output + capfd.readouterr().err
