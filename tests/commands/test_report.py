"""The page of a run, and its pictures."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from report_text import report_text

from commands.reporting.page import write_page
from evaluation.report.page import SECTIONS
from evaluation.report.views import view
from lightning_modules.classifier import Classifier
from lightning_modules.saliency import class_map


@pytest.fixture
def run(finished_run, tmp_path):
    """Return a copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_cross_validation_ends_with_one_page_that_needs_no_network(finished_run):
    html = (finished_run / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert not re.search(r"url\(|@import|https?://", html)
    assert report_text(html).keys() == {"top", *SECTIONS}
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert f"AUROC {metrics['mean']['auroc']:.3f}" in report_text(html)["top"]
    assert html.count('<details class="views">') == metrics["num_scans"]


def test_the_page_can_hide_names_and_paths(run):
    patients = set(pd.read_csv(run / "cohort.csv", dtype=str)["patient_id"])
    images = set(pd.read_csv(run / "cohort.csv", dtype=str)["image"])
    html = write_page(run, anonymous=True).read_text()
    text = " ".join(report_text(html).values())
    assert not [name for name in patients | images if name in text]
    assert str(run.parent) not in html
    assert "patient 12" in text


@pytest.mark.slow
def test_another_run_on_the_same_folds_is_compared_patient_by_patient(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    words = report_text(write_page(run, others=str(other)).read_text())["comparison"]
    assert "other cannot be told from run" in words
    assert "+0.000 (+0.000 – +0.000), p 1.000" in words


@pytest.mark.slow
def test_a_run_on_other_folds_is_shown_without_a_difference(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    splits = pd.read_csv(other / "splits.csv", dtype=str)
    splits["fold"] = splits["fold"].map({"0": "1", "1": "0", "2": "2"})
    splits.to_csv(other / "splits.csv", index=False)
    words = report_text(write_page(run, others=str(other)).read_text())["comparison"]
    assert "other folds: no paired difference" in words


@pytest.mark.slow
def test_a_page_with_others_hides_their_paths(run, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    html = write_page(run, others=str(tmp_path / "other"), anonymous=True).read_text()
    assert str(tmp_path) not in html


def test_a_class_map_is_strongest_where_the_class_is_decided():
    model = Classifier(2, (12, 12, 12), depth=1, filters=2, nodes=2, pool=1, norm="none")
    with torch.no_grad():  # the bright voxels speak for class 1, whatever else
        for weight in model.parameters():
            weight.zero_()
        model.encoder[0][0].weight[:, 0, 1, 1, 1] = 1.0
        model.head[2].weight.fill_(0.01)
        model.head[5].weight[1].fill_(1.0)
    volume = torch.zeros(1, 1, 12, 12, 12)
    volume[0, 0, 2:4, 8:10, 4:6] = 1
    for kind in ("gradcam", "gradcam++", "occlusion", "integrated_gradients"):
        heat = class_map(model, volume, 1, kind)
        assert heat.shape == (12, 12, 12)
        assert heat[2:4, 8:10, 4:6].min() == pytest.approx(1, abs=0.05)
        assert heat.mean() < 0.2
        assert class_map(model, volume, 0, kind).max() == 0


def test_a_view_shows_right_on_the_left_and_superior_up():
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    volume = np.zeros((20, 20, 20))
    volume[17:, 9:12, 9:12] = 1  # a bright spot on the patient's right
    volume[9:12, 9:12, 17:] = 0.6  # and one at the top
    uri, words = view(volume[None], (1.0, 1.0, 1.0))
    picture = np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert("L"))
    side = picture.shape[1] // 3
    coronal, axial = picture[:, side : 2 * side], picture[:, 2 * side :]
    assert axial[:, : side // 4].max() > 200 > 100 > axial[:, 3 * side // 4 :].max()
    assert coronal[: side // 4, :].max() > 120 > 60 > coronal[3 * side // 4 :, :].max()
    assert "voxel 10, 10, 10" in words


def test_a_run_from_before_calibration_on_other_folds_has_its_page_too(run):
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["calibration"]["on"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "validation patients of each fold" in write_page(run, maps="none").read_text()


@pytest.mark.slow
def test_an_empty_map_is_told_in_the_row_and_counted(run, monkeypatch):
    def empty_for_the_first(model, volume, k, kind, covariates):
        heat = np.full(volume.shape[2:], float(len(drawn) > 0))
        drawn.append(kind)
        return heat

    drawn = []
    monkeypatch.setattr("commands.reporting.page.class_map", empty_for_the_first)
    html = write_page(run, maps="gradcam").read_text()
    assert html.count('no map: nothing was found to speak for the predicted class">') == 1
    assert f"1 of {len(drawn)} maps are empty" in html


@pytest.mark.slow
def test_a_long_name_continues_after_its_separators_and_the_picture_has_a_row_of_its_own(run):
    html = write_page(run).read_text()
    assert "<td>0<wbr>.nii<wbr>.gz</td>" in html
    assert "<summary>person1</summary>" in html
    opened = re.search(r'<tr class="view"><td colspan="(\d+)"><img', html)
    heads = re.search(r'<table class="sortable">.*?<thead>(.*?)</thead>', html, re.DOTALL)
    assert int(opened[1]) == heads[1].count("<th")


@pytest.mark.slow
def test_the_page_is_drawn_by_a_browser(finished_run, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    picture = tmp_path / "page.png"
    base = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    page = (finished_run / "report.html").as_uri()
    subprocess.run(
        [*base, "--window-size=1100,3000", f"--screenshot={picture}", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (3000, 1100)
    assert 0.01 < (pixels < 128).mean() < 0.5
    dump = subprocess.run(
        [*base, "--virtual-time-budget=2000", "--dump-dom", page],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert report_text(dump.stdout)["performance"].count("–") > 5
    widths = "[...document.querySelectorAll('.wide')].map(e => e.scrollWidth - e.clientWidth)"
    long = page_of_long_names(finished_run, tmp_path / "long.html", f"document.title = {widths}")
    for width in (1280, 800):
        dump = subprocess.run(
            [*base, f"--window-size={width},900", "--dump-dom", long.as_uri()],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        beyond = re.search("<title>(.*?)</title>", dump.stdout)[1].split(",")
        assert set(beyond) == {"0"}, f"a table leaves the page at {width} px"


def page_of_long_names(run, path, script):
    """The ranking of a run whose patients and classes have long names."""
    html = (run / "report.html").read_text()
    start, end = (html.index(f'<h2 id="{part}">') for part in ("ranking", "calibration"))
    ranking = html[start:end].replace("unhealthy", "lower_<wbr>grade_<wbr>glioma_<wbr>mutant")
    ranking = ranking.replace("person", "sub-<wbr>PATIENT12345SITE12345_<wbr>ses-<wbr>01_<wbr>")
    ranking = ranking.replace("<details", "<details open")
    path.write_text(html[: html.index("<main")] + ranking + f"<script>{script}</script>")
    return path
