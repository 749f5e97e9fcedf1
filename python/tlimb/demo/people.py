"""Who is in the demo cohorts: age, sex, site, diagnosis and the planted factors, without any image."""

import numpy as np
import pandas as pd

from tlimb.demo.recipe import CLINIC_AGES, COHORT_SITES, FACTOR_NAMES, FACTORS, FEMALE_SCALE, LIFESPAN_AGES
from tlimb.demo.recipe import MODE_NAMES, MODES, REFERENCE_AGE, SEVERITY, SIZE_SPREAD
from tlimb.seeds import seed_for

BLOCK = 4


def clinic_size(scans: int) -> int:
    """How many of `scans` belong to `clinic`: 40 % in whole blocks of four."""
    return BLOCK * max(1, round(0.4 * scans / BLOCK))


def people(scans: int, seed: int) -> pd.DataFrame:
    """The persons of both cohorts, one scan each: 60 % `lifespan`, then 40 % `clinic` in whole blocks of four.

    A person depends on the seed, the cohort and their number only, so a larger cohort begins with the smaller one.
    In `clinic` persons 2k and 2k + 1 are a control and a patient of the same sex, site and age (to a year).
    `diagnosis_null` exchanges the two labels in one pair of every two: a permutation that agrees with the truth in
    exactly half of the persons.

    Columns: cohort, subject, age (years, one decimal), sex, site, diagnosis, diagnosis_null, severity (0 for controls),
    size (relative head size), one a factor (sd) and one a mode (sd). Raises ValueError below 10 scans.
    """
    if scans < 2 * BLOCK + 2:
        raise ValueError(f"a demo needs at least {2 * BLOCK + 2} scans, not {scans}")
    clinic = clinic_size(scans)
    rows = [_lifespan_person(seed, number) for number in range(scans - clinic)]
    rows += [_clinic_person(seed, number) for number in range(clinic)]
    return pd.DataFrame(rows)


def planted_factors(age: float, female: bool, severity: float, rng: np.random.Generator) -> np.ndarray:
    """The factors (sd) of a person: what age, sex and disease add up to, plus independent individual variation."""
    expected = [f.age_slope * (age - REFERENCE_AGE) + f.female * female + f.patient * severity for f in FACTORS]
    return np.asarray(expected) + rng.standard_normal(len(FACTORS))


def _lifespan_person(seed: int, number: int) -> dict:
    rng = np.random.default_rng(seed_for(seed, "demo", "lifespan", number))
    age, female = rng.uniform(*LIFESPAN_AGES), bool(rng.random() < 0.5)
    site = str(rng.choice(COHORT_SITES["lifespan"]))
    return _person("lifespan", number, age, female, site, None, None, rng)


def _clinic_person(seed: int, number: int) -> dict:
    pair, member = divmod(number, 2)
    pair_rng = np.random.default_rng(seed_for(seed, "demo", "clinic pair", pair))
    low, high = CLINIC_AGES
    age, female = pair_rng.uniform(low + 0.5, high - 0.5), bool(pair_rng.random() < 0.5)
    site, first = str(pair_rng.choice(COHORT_SITES["clinic"])), int(pair_rng.integers(2))
    exchanged = np.random.default_rng(seed_for(seed, "demo", "null", pair // 2)).integers(2) == pair % 2
    patient = member == first
    rng = np.random.default_rng(seed_for(seed, "demo", "clinic", number))
    return _person("clinic", number, age + rng.uniform(-0.5, 0.5), female, site, patient, patient != exchanged, rng)


def _person(cohort, number, age, female, site, patient, patient_null, rng) -> dict:
    severity = float(rng.uniform(*SEVERITY)) if patient else 0.0
    size = float((FEMALE_SCALE if female else 1.0) * np.exp(SIZE_SPREAD * rng.standard_normal()))
    factors = planted_factors(age, female, severity, rng)
    names = {None: None, False: "control", True: "patient"}
    return {
        "cohort": cohort,
        "subject": f"sub-{cohort[0].upper()}{number + 1:04d}",
        "age": round(float(age), 1),
        "sex": "female" if female else "male",
        "site": site,
        "diagnosis": names[None if patient is None else bool(patient)],
        "diagnosis_null": names[None if patient_null is None else bool(patient_null)],
        "severity": severity,
        "size": size,
        **dict(zip(FACTOR_NAMES, factors.tolist())),
        **dict(zip(MODE_NAMES, rng.standard_normal(MODES).tolist())),
    }
