"""What many tests share: a small cohort table and a sweep over it."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def free_choice_of_algorithms():
    """Undo what a test that trains asks of torch: oracles of other tests need operations that are not deterministic."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].use_deterministic_algorithms(False)


@pytest.fixture
def document() -> dict:
    """A sweep as a user would write it: pretrain on age, fine-tune on diagnosis, eight trials of four candidates."""
    slices = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
    return {
        "input": "cohorts.csv",
        "architecture": {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}},
        "stages": [
            {"name": "pretrain", "targets": "age", "epochs": 3, "data": {"labelled": {"cohort": "lifespan"}, "module": slices}},
            {"name": "finetune", "targets": "diagnosis", "epochs": 4, "data": {"labelled": {"cohort": "clinic"}, "module": slices}},
        ],
        "split": {"validation": 0.2, "test": 0.4, "stratify": ["diagnosis"]},
        "search": {
            "seeds": [0, 1],
            "space": {
                "stages.finetune": [
                    {"strategy": "scratch"},
                    {"strategy": "frozen"},
                    {"strategy": "full"},
                    {"strategy": "full", "objective": {"auxiliary": [{"class_path": "L2SP", "init_args": {"alpha": 0.01}}]}},
                ]
            },
        },
    }


@pytest.fixture
def table() -> pd.DataFrame:
    """Sixty scans of sixty persons, laid out as cohort.parquet: age everywhere, diagnosis in the clinic only."""
    rows = []
    for cohort, size in (("clinic", 24), ("lifespan", 36)):
        for i in range(size):
            subject = f"{cohort}-{i:03d}"
            rows.append({
                "scan_id": f"{cohort}/{subject}/1/T1w", "cohort": cohort, "subject": subject, "session": "1", "modality": "T1w",
                "person": f"{cohort}/{subject}", "image": f"/data/{subject}.nii.gz", "mask": None,
                "age": 20.0 + i, "diagnosis": ["control", "patient"][i % 2] if cohort == "clinic" else None,
            })
    return pd.DataFrame(rows).astype({"mask": "str", "diagnosis": "str"}).replace({"nan": None, "None": None})


@pytest.fixture
def labels() -> dict:
    """The labels of `table`, as in cohort.json."""
    return {
        "age": {"kind": "regression", "classes": [], "n": 60},
        "diagnosis": {"kind": "classification", "classes": ["control", "patient"], "n": 24},
    }
