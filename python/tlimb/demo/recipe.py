"""What is planted in the demo cohorts: numbers fixed from the oracle alone, before any network was trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Factor:
    """One measurable trait of a person's anatomy, in units of its own spread between persons (sd).

    value = age_slope * (age - REFERENCE_AGE) + patient * severity + female * [female] + standard normal

    widen_mm: mm by which one sd moves tissue where its displacement field is strongest.
    thin: share of the grey matter next to fluid that one sd turns into fluid.
    """

    name: str
    age_slope: float = 0.0
    patient: float = 0.0
    female: float = 0.0
    widen_mm: float = 0.0
    thin: float = 0.0


@dataclass(frozen=True)
class Site:
    """A scanner: the signal it gives to air, skull, fluid, grey matter, white matter and fat, its noise and its voxels.

    noise: standard deviation of the noise in each channel, as a share of the signal of fat.
    voxel: mm along x, y, z, before 5 % jitter.
    bias: largest relative deviation of the receive field over the head.
    """

    levels: tuple[float, ...]
    noise: float
    voxel: tuple[float, float, float]
    bias: float


# The anatomy at this age, with every factor 0, is the template's.
REFERENCE_AGE = 40.0

FACTORS = (
    Factor("ventricles", age_slope=0.10, patient=0.6, widen_mm=0.5),
    Factor("cortex", age_slope=0.09, patient=0.2, thin=0.08),
    Factor("medial_temporal", age_slope=0.08, patient=2.0, widen_mm=0.5, thin=0.10),
    Factor("sylvian", age_slope=0.07, patient=2.0, widen_mm=0.5, thin=0.10),
    Factor("forehead", female=1.5, widen_mm=1.2),
    Factor("parietal_width", female=-1.5, widen_mm=1.2),
)

# A patient's severity is drawn from this range, mean 1.
SEVERITY = (0.5, 1.5)

# Nuisance: smooth individual deformation, the sum of MODES random fields, each with this root mean square in the brain.
MODES = 24
MODE_MM = 0.4

# A woman's head is smaller, and sizes vary (relative sd); affine registration takes both away.
FEMALE_SCALE = 0.97
SIZE_SPREAD = 0.03

LIFESPAN_AGES = (20.0, 85.0)
CLINIC_AGES = (55.0, 85.0)

# The template's intensities of air, skull, fluid, grey matter, white matter, fat, which a site maps to its own levels.
KNOTS = (0.0, 0.10, 0.27, 0.65, 0.87, 1.0)
SITES = {
    "north": Site((0.0, 0.08, 0.22, 0.60, 0.88, 1.0), noise=0.020, voxel=(2.1, 2.1, 2.1), bias=0.08),
    "south": Site((0.0, 0.15, 0.38, 0.70, 0.86, 1.0), noise=0.035, voxel=(2.3, 2.0, 2.0), bias=0.15),
    "east": Site((0.0, 0.06, 0.15, 0.48, 0.80, 1.0), noise=0.025, voxel=(2.0, 2.0, 2.4), bias=0.12),
    "west": Site((0.0, 0.12, 0.32, 0.72, 0.92, 1.0), noise=0.030, voxel=(2.2, 2.2, 1.9), bias=0.10),
}
COHORT_SITES = {"lifespan": ("north", "south", "east"), "clinic": ("east", "west")}

ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "ASL", "RSA")


@dataclass(frozen=True)
class Storage:
    """How an archive holds a volume: value = slope * stored + intercept.

    fat: the largest value that the signal of fat is given.  step: what stored numbers are multiples of.
    """

    dtype: str
    slope: float
    intercept: float
    fat: float
    step: float = 1.0


STORAGE = (
    Storage("int16", 1.0, 0.0, fat=870.0),
    Storage("int16", 0.25, -40.0, fat=350.0),
    Storage("uint16", 2.5, 0.0, fat=4350.0),
    Storage("uint8", 1.7, 0.0, fat=370.0),
    Storage("float32", 1.0, 0.0, fat=0.87, step=2.0**-10),
)

FACTOR_NAMES = tuple(factor.name for factor in FACTORS)
MODE_NAMES = tuple(f"mode_{number:02d}" for number in range(1, MODES + 1))
