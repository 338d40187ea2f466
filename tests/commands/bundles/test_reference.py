import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from commands.bundles.reference import ScanFacts, describe, differences, distances, read_facts
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Scan
from datamodules.volumes import load_volumes

SEEN = [
    ScanFacts("LPS", (1.0, 1.0, 3.0), 100.0, 0.2, 0.25),
    ScanFacts("RAS", (0.9, 1.0, 3.0), 150.0, 0.3, 0.30),
]
FEATURES = np.random.default_rng(0).normal(size=(20, 5)) * (1, 2, 3, 4, 5)


@pytest.fixture
def reference():
    return describe(SEEN, FEATURES[:15], FEATURES[15:])


@pytest.mark.parametrize("facts", [*SEEN, ScanFacts("LPS", (0.95, 1.05, 2.8), 290.0, 0.34, 0.23)])
def test_a_scan_like_those_of_the_training_is_not_warned_of(reference, facts):
    assert differences(facts, [reference]) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (ScanFacts("SAR", (1, 1, 3), 100, 0.2, 0.25), "orientation SAR, trained on LPS, RAS"),
        (ScanFacts("LPS", (1, 1, 1), 100, 0.2, 0.25), "up-down voxel size 1 mm, trained on 3"),
        (ScanFacts("LPS", (2, 1, 3), 100, 0.2, 0.25), "left-right voxel size 2 mm"),
        (ScanFacts("LPS", (1, 1, 3), 0.3, 0.2, 0.25), "raw intensities vary by 0.3"),
        (ScanFacts("LPS", (1, 1, 3), 100, 0.4, 0.25), "mean intensity 0.4, trained on 0.2 to 0.3"),
        (ScanFacts("LPS", (1, 1, 3), 100, 0.2, 0.05), "standard deviation intensity 0.05"),
    ],
)
def test_what_is_unlike_the_training_scans_is_said_and_nothing_else(reference, facts, words):
    (found,) = differences(facts, [reference])
    assert words in found


def test_a_scan_that_one_fold_knows_is_not_unlike(reference):
    other = describe([ScanFacts("SAR", (1.0, 1.0, 3.0), 1.0, 0.9, 0.9)], FEATURES, FEATURES)
    facts = ScanFacts("SAR", (1.0, 1.0, 3.0), 1.0, 0.9, 0.9)
    assert differences(facts, [reference])
    assert differences(facts, [reference, other]) == []


def test_distances_are_root_mean_squares_of_standardised_features(reference):
    scaled = StandardScaler().fit(FEATURES[:15]).transform(FEATURES)
    expected = np.sqrt((scaled**2).mean(1))
    np.testing.assert_allclose(distances(reference, FEATURES), expected)
    assert reference.largest_distance == pytest.approx(expected[15:].max())


def test_a_feature_that_was_silent_in_training_makes_a_scan_distant():
    silent = FEATURES * (1, 1, 1, 1, 0)
    reference = describe(SEEN, silent[:15], silent[15:])
    loud = np.array([[0, 0, 0, 0, 1.0]])
    assert distances(reference, silent[:1] + loud) > reference.largest_distance


def test_a_model_without_features_finds_nothing_distant():
    reference = describe(SEEN, np.empty((4, 0)), np.empty((2, 0)))
    assert distances(reference, np.empty((3, 0))).tolist() == [0, 0, 0]
    assert reference.largest_distance == 0


def test_facts_are_those_of_the_file_and_of_the_preprocessed_volume(write_scan, tmp_path):
    voxels = np.random.default_rng(0).random((8, 9, 10), dtype=np.float32)
    affine = np.array([[0, 0, -3.0, 0], [2, 0, 0, 0], [0, -1.5, 0, 0], [0, 0, 0, 1]])
    path = write_scan(voxels=voxels, affine=affine)
    scans = [Scan("p", path.name, path)]
    volumes = load_volumes(scans, Preprocessing(spatial_shape=(8, 8, 8)), tmp_path)
    (facts,) = read_facts(volumes)
    assert facts.orientation == "AIL"
    assert facts.spacing_mm == (3.0, 2.0, 1.5)
    assert facts.raw_sd == pytest.approx(voxels.std())
    assert facts.mean == pytest.approx(volumes.data.astype(float).mean())
    assert facts.sd == pytest.approx(volumes.data.astype(float).std())
