"""What a scan without a modality is taken for, by its values."""

import logging

import nibabel
import numpy as np
import pytest

from swiftmedsam.modality import UNKNOWN, find_modality
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.infer_modality import modality_of
from tests.helpers.scans import scan_of

CHANCE = np.random.default_rng(7)
SHAPE = (48, 40, 12)
BODY = np.hypot(*np.ogrid[-1:1:48j, -1:1:40j])[..., np.newaxis].repeat(12, axis=2) < 0.8
LUNGS = np.hypot(*np.ogrid[-1:1:48j, -1:1:40j])[..., np.newaxis].repeat(12, axis=2) < 0.5
CORNER = np.hypot(*np.ogrid[-1:1:48j, -1:1:40j])[..., np.newaxis].repeat(12, axis=2) > 1.1


def noise(scale):
    return CHANCE.normal(0, scale, SHAPE)


def ct(padding=None, lung=False):
    values = np.where(BODY, 40 + noise(20), -1000 + noise(15))
    if lung:
        values[LUNGS] = -850 + noise(40)[LUNGS]
    values[20:24, 18:22] = 900  # bone
    values = values.clip(-1024, 3071)
    if padding is not None:
        values[CORNER] = padding
    return values.astype(np.int16)


def resampled(values):
    """As an interpolation leaves it at the border of the padding."""
    values[CORNER & (noise(1) > 2.5)] = -1800
    return values


def with_metal(values):
    values[22, 18:30, 0] = -1150
    return values


RAMP = np.linspace(-1, 1, BODY.size).reshape(SHAPE)
CTS = {
    "CT": ct(), "in floats": ct().astype(np.float32), "of the chest": ct(lung=True),
    "padded with -2000": ct(-2000), "padded with -3024": ct(-3024), "padded with NaN": np.where(
        CORNER, np.nan, ct().astype(np.float32)),
    "padded and resampled": resampled(ct(-3024)), "with streaks": with_metal(ct()),
    "cut at -1000": ct().clip(-1000),
}  # fmt: skip
OTHERS = {
    "phase of -4096..4095": RAMP * 4095, "phase in thousandths of a radian": RAMP * 3142,
    "phase that is noise": CHANCE.uniform(-4096, 4096, SHAPE),
    "phase around 0 outside": np.where(BODY, RAMP * 4095, 0),
    "phase that is -4096 outside": np.where(BODY, RAMP * 4095, -4096),
    "field map in Hz": noise(250), "field map of -1000..1000": RAMP * 1000,
    "noise of -1000..1000": CHANCE.uniform(-1000, 1000, SHAPE),
    "noise of -1050..1050": CHANCE.uniform(-1050, 1050, SHAPE),
    "difference of two images": noise(2000), "velocities": np.where(BODY, RAMP * 700, 0),
    "flat": np.full(SHAPE, -1200), "one low value": np.where(CORNER, -32768, 100 + noise(20)),
}  # fmt: skip


@pytest.mark.parametrize("kind", CTS)
def test_a_scan_with_air_is_taken_for_ct_and_that_is_said(kind, caplog):
    caplog.set_level(logging.INFO)
    scan = scan_of(CTS[kind], np.eye(4))
    assert modality_of(scan, None) is find_modality("CT")
    (message,) = caplog.messages
    assert message.startswith("scan.nii: taken for CT, since ")
    assert message.endswith("% of it is air at -1000 (--modality)")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_signed_values_without_a_peak_of_air_are_no_ct_and_that_is_said(kind, dtype, caplog):
    caplog.set_level(logging.INFO)
    scan = scan_of(OTHERS[kind].astype(dtype), np.eye(4))
    assert modality_of(scan, None) is UNKNOWN
    assert caplog.messages == ["scan.nii: no CT by its values, percentiles are used (--modality)"]
    lowest = np.nanmin(scan.voxels)
    assert caplog.records[0].levelno == (logging.WARNING if lowest < -500 else logging.INFO)


def test_what_somebody_or_the_file_says_counts(caplog):
    scan = scan_of(CTS["CT"], np.eye(4), modality="MR")
    assert modality_of(scan, None) is find_modality("MR")
    assert modality_of(scan, find_modality("PET")) is find_modality("PET")


def test_a_phase_image_of_a_file_keeps_its_values(tmp_path, caplog):
    """With a slope, as converters write them."""
    image = nibabel.Nifti1Image((RAMP * 2047).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2, 0)
    nibabel.save(image, tmp_path / "phase.nii.gz")
    assert modality_of(read_scan(tmp_path / "phase.nii.gz"), None) is UNKNOWN
