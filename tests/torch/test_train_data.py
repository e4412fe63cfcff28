"""What training sees: pictures of a corpus, changes of them, and the boxes drawn around objects."""

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from swiftmedsam.frame import Frame
from swiftmedsam.train.data import prompts
from swiftmedsam.train.data.augment import (
    CROP_MIN_OVERSIZE,
    Augmentation,
    change_intensity,
    crop_around,
    flip_and_turn,
    picture_area,
)
from swiftmedsam.train.data.corpus import (
    MIN_OBJECT_AREA,
    BalancedSampler,
    CorpusError,
    ShardPicture,
    counts,
    objects_of,
    read_corpus,
)
from swiftmedsam.train.data.framed import draw_picture, draw_unlabelled_picture, frame_labels, warp
from swiftmedsam.train.data.prompts import (
    MAX_LOOSENESS,
    MAX_SHIFTS,
    MIN_FREE_SIDE,
    boxes_around,
    draw_free_boxes,
    draw_prompts,
    draw_shifts,
    pseudo_boxes,
)
from swiftmedsam.train.data.stream import CorpusSource
from swiftmedsam.train.options import Options, read_factors
from tests.helpers import ellipse, picture
from tests.helpers.generated import given, st

JPEG_TOLERANCE = 2  # grey levels; JPEG rounds coefficients, at quality 100 by at most a level or so
# 2000 draws of an even choice: the standard deviation of a share is 0.011, this is 4 of them.
DRAWS, SHARE_TOLERANCE = 2000, 0.045
FLOAT_TOLERANCE = 1e-6  # a division or two in float32 of numbers up to 1
SHIFT_TOLERANCE = 0.1  # input pixels; what the border cuts off a blurred spot moves its centre

NOTHING = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))
EVERYTHING = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 1.0))

GREY = np.kron(np.array([[10, 60, 110], [160, 210, 250]], np.uint8), np.ones((16, 16), np.uint8))
RGB = (200, 100, 30)
COLOUR = np.full((40, 24, 3), RGB, np.uint8)


# Corpora


def labels_of(height, width, *masks):
    """Label map (height, width): i + 1 where mask i is."""
    labels = np.zeros((height, width), np.uint8)
    for i, mask in enumerate(masks, start=1):
        labels[mask] = i
    return labels


def encoded(kind, array):
    """Bytes of a .jpg, .webp or .png file of `array`, RGB where it has colour."""
    bgr = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    quality = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 100], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
    return cv2.imencode(kind, bgr, quality.get(kind, []))[1]


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, array in members.items():
            data = encoded(Path(name).suffix, array).tobytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


GREY_LABELS = labels_of(32, 48, ellipse(32, 48, (10, 30), (6, 12)))
COLOUR_LABELS = labels_of(
    40, 24, ellipse(40, 24, (20, 8), (12, 5)), ellipse(40, 24, (8, 18), (3, 3))
)


@pytest.fixture
def corpus(tmp_path):
    """A shard in a folder below, and npz files of an image and of a volume."""
    (tmp_path / "below").mkdir()
    write_shard(
        tmp_path / "below" / "MR_Made.tar",
        {  # in no order, as a tar may be
            "b.png": COLOUR_LABELS, "a.jpg": GREY, "b.webp": COLOUR, "a.png": GREY_LABELS,
        },
    )  # fmt: skip
    folder = tmp_path / "OtherSet"
    folder.mkdir()
    np.savez(folder / "2DBox_Endoscopy_7.npz", imgs=COLOUR, gts=COLOUR_LABELS)
    volume = np.stack([GREY + z for z in range(4)])
    labels = np.stack([GREY_LABELS * (z in (1, 3)) for z in range(4)]).astype(np.uint16)
    np.savez(folder / "CT_Abdomen_1.npz", imgs=volume, gts=labels)
    return tmp_path


def test_shards_and_npz_become_pictures_with_modality_and_data_set(corpus):
    found = [(p.modality, p.dataset, p.key) for p in read_corpus(corpus)]
    assert found == [
        ("MR", "MR_Made", "a"),
        ("MR", "MR_Made", "b"),
        ("Endoscopy", "OtherSet", "2DBox_Endoscopy_7"),
        ("CT", "OtherSet", "CT_Abdomen_1__z001"),  # slices 0 and 2 hold no object
        ("CT", "OtherSet", "CT_Abdomen_1__z003"),
    ]


def test_a_pair_of_a_shard_is_read_as_it_was_written(corpus):
    grey, colour = (p.read() for p in read_corpus(corpus) if isinstance(p, ShardPicture))
    for (image, labels), (wanted, wanted_labels) in (
        (grey, (GREY, GREY_LABELS)), (colour, (COLOUR, COLOUR_LABELS)),
    ):  # fmt: skip
        assert image.dtype == np.uint8
        assert image.shape == wanted.shape
        np.testing.assert_allclose(image.astype(int), wanted, rtol=0, atol=JPEG_TOLERANCE)
        np.testing.assert_array_equal(labels, wanted_labels)


def test_labels_of_16_bit_keep_their_numbers(tmp_path):
    labels = GREY_LABELS.astype(np.uint16) * 1000
    write_shard(tmp_path / "CT_Big.tar", {"a.jpg": GREY, "a.png": labels})
    np.testing.assert_array_equal(read_corpus(tmp_path)[0].read()[1], labels)


def test_an_npz_is_read_as_image_or_as_slice(corpus):
    image, _, slice_3 = (p.read() for p in read_corpus(corpus) if not isinstance(p, ShardPicture))
    np.testing.assert_array_equal(image[0], COLOUR)
    np.testing.assert_array_equal(image[1], COLOUR_LABELS)
    np.testing.assert_array_equal(slice_3[0], GREY + 3)
    np.testing.assert_array_equal(slice_3[1], GREY_LABELS)


def test_unlabelled_shards_are_read_where_no_labels_are_needed(tmp_path):
    write_shard(tmp_path / "US_Seen.tar", {"b.webp": COLOUR, "a.webp": GREY})
    write_shard(tmp_path / "US_Some.tar", {"c.webp": GREY, "c.png": GREY_LABELS})
    pictures = read_corpus(tmp_path, labelled=False)
    assert counts(pictures) == {"US_Seen": 2, "US_Some": 1}
    image, labels = pictures[1].read()
    np.testing.assert_array_equal(image, COLOUR)  # WebP without loss
    np.testing.assert_array_equal(labels, np.zeros(COLOUR.shape[:2]))


@pytest.mark.parametrize(
    ("members", "labelled", "message"),
    [
        ({"a.webp": GREY, "a.png": GREY_LABELS, "b.webp": GREY}, True, "b.webp has no b.png"),
        ({"a.jpg": GREY, "a.png": GREY_LABELS, "b.png": GREY_LABELS}, True, "b.png has no b.webp"),
        ({"b.png": GREY_LABELS}, False, "b.png has no b.webp"),
    ],
)
def test_pictures_and_labels_that_are_not_in_pairs_are_refused_by_name(
    members, labelled, message, tmp_path
):
    write_shard(tmp_path / "CT_Odd.tar", members)
    with pytest.raises(CorpusError, match=message) as refused:
        read_corpus(tmp_path, labelled=labelled)
    assert "CT_Odd.tar" in str(refused.value)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"no \.tar shard and no \.npz"):
        read_corpus(tmp_path)


def test_objects_smaller_than_20_pixels_do_not_count():
    labels = np.zeros((10, 30), int)
    labels[0, :20], labels[2, :19], labels[4:8] = 5, 6, 9
    assert MIN_OBJECT_AREA == 20
    assert objects_of(labels).tolist() == [5, 9]
    assert objects_of(labels[2:4]).size == 0


def test_the_share_of_modalities_and_data_sets_grows_slower_than_their_count(tmp_path):
    def pictures(modality, dataset, count):
        return [
            ShardPicture(modality, dataset, str(i), tmp_path, (0, 0), (0, 0)) for i in range(count)
        ]

    few, many = pictures("US", "Few", 2), pictures("MR", "Many", 128)
    every = [*many, *pictures("MR", "Some", 32), *few]
    sampler = BalancedSampler(every)
    random = np.random.default_rng(0)
    drawn = [sampler.draw(random) for _ in range(DRAWS)]
    share = {k: n / DRAWS for k, n in Counter(p.dataset for p in drawn).items()}
    us = 2**0.25 / (2**0.25 + 160**0.25)  # 0.25, not 1%
    of_each = {"Few": us, "Many": (1 - us) * 2 / 3, "Some": (1 - us) / 3}  # 128 and 32: 2 to 1
    assert share == pytest.approx(of_each, abs=SHARE_TOLERANCE)
    assert len({p.key for p in drawn if p.dataset == "Many"}) > 110  # each drawn 4 times
    even = BalancedSampler(every, modality_power=0, dataset_power=0)
    names = Counter(even.draw(random).dataset for _ in range(DRAWS))
    share = {name: count / DRAWS for name, count in names.items()}
    assert share == pytest.approx({"Few": 0.5, "Many": 0.25, "Some": 0.25}, abs=SHARE_TOLERANCE)


def test_favoured_modalities_and_data_sets_are_drawn_more_often(tmp_path):
    every = [
        ShardPicture(modality, dataset, str(i), tmp_path, (0, 0), None)
        for modality, dataset in (("US", "Heart"), ("US", "Breast"), ("MR", "Brain"))
        for i in range(8)
    ]
    favoured = {"US": 3.0, "Breast": 4.0}
    sampler = BalancedSampler(every, modality_power=0, dataset_power=0, favoured=favoured)
    random = np.random.default_rng(0)
    drawn = Counter(sampler.draw(random).dataset for _ in range(DRAWS))
    share = {name: count / DRAWS for name, count in drawn.items()}
    expected = {"Heart": 0.75 / 5, "Breast": 0.75 * 4 / 5, "Brain": 0.25}
    assert share == pytest.approx(expected, abs=SHARE_TOLERANCE)


def test_factors_are_read_by_name():
    assert read_factors("Endoscopy=3,US_Heart-2=0.5") == {"Endoscopy": 3.0, "US_Heart-2": 0.5}
    assert read_factors("") == {}


@pytest.mark.parametrize("text", ["Endoscopy", "=2", "US=0", "US=-1", "US=nan", "US=inf", "US=2,"])
def test_a_factor_without_name_or_number_is_refused(text):
    with pytest.raises(ValueError, match="expected NAME=FACTOR"):
        read_factors(text)
    with pytest.raises(ValueError, match="expected NAME=FACTOR"):
        Options(favoured=text)


def test_a_favoured_name_that_the_corpus_does_not_have_is_refused(corpus):
    with pytest.raises(CorpusError, match="'Endoscope' is to be favoured: no such"):
        CorpusSource(corpus, Augmentation(), favoured={"Endoscope": 3.0})


def test_other_slices_are_those_of_the_same_volume_and_not_more_than_asked_for(tmp_path):
    def slice_of(dataset, volume, z):
        return ShardPicture("MR", dataset, f"{volume}__z{z:03d}", tmp_path, (0, 0), (0, 0))

    volume = [slice_of("Heart", "p1", z) for z in range(5)]
    strangers = [slice_of("Heart", "p10", 0), slice_of("Liver", "p1", 0)]
    alone = ShardPicture("US", "Head", "image", tmp_path, (0, 0), (0, 0))
    sampler = BalancedSampler([*volume, *strangers, alone])
    random = np.random.default_rng(0)
    found = sampler.other_slices(volume[2], 9, random)
    assert sorted(p.key for p in found) == [f"p1__z{z:03d}" for z in (0, 1, 3, 4)]
    assert len(sampler.other_slices(volume[2], 3, random)) == 3
    assert sampler.other_slices(alone, 3, random) == []


# Geometry

NUMBERS = np.arange(24, dtype=np.uint8).reshape(4, 6)


def test_both_flips_turn_4_by_6_numbers_upside_down():
    options = replace(NOTHING, flip=1)
    image, labels = flip_and_turn(NUMBERS, NUMBERS, options, np.random.default_rng(0))
    assert image.tolist() == labels.tolist()
    assert image.tolist() == [list(range(n, n - 6, -1)) for n in (23, 17, 11, 5)]


def test_flips_and_turns_show_a_picture_in_eight_ways_and_its_labels_alike():
    seen = set()
    for seed in range(100):
        colour = np.stack([NUMBERS, NUMBERS + 100, NUMBERS], axis=-1)
        options = replace(NOTHING, flip=0.5, turn=0.5)
        image, labels = flip_and_turn(colour, NUMBERS, options, np.random.default_rng(seed))
        np.testing.assert_array_equal(image[..., 0], labels)
        np.testing.assert_array_equal(image[..., 1], labels + 100)
        assert sorted(labels.flat) == list(range(24))
        seen.add((labels.shape, *labels.flat))
    assert len(seen) == 8


def test_without_flips_and_turns_the_picture_stays():
    image, labels = flip_and_turn(NUMBERS, NUMBERS, NOTHING, np.random.default_rng(0))
    np.testing.assert_array_equal(image, NUMBERS)
    np.testing.assert_array_equal(labels, NUMBERS)


@st.composite
def maps_with_an_object(draw):
    """Label map (H, W), sides of 1 to 60, in which a box of pixels is 7 and the rest 0 or 3."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    ys = sorted(draw(st.tuples(*[st.integers(0, height - 1)] * 2)))
    xs = sorted(draw(st.tuples(*[st.integers(0, width - 1)] * 2)))
    labels = np.where(np.arange(height * width).reshape(height, width) % 5, 0, 3)
    labels[ys[0] : ys[1] + 1, xs[0] : xs[1] + 1] = 7
    return labels


@given(maps_with_an_object(), st.integers(0, 2**32))
def test_a_crop_holds_its_object_whole_and_labels_fit_the_image(labels, seed):
    image = np.arange(labels.size).reshape(labels.shape)  # every pixel knows where it was
    window, its_labels = crop_around(image, labels, 7, np.random.default_rng(seed))
    assert (its_labels == 7).sum() == (labels == 7).sum()
    np.testing.assert_array_equal(its_labels, labels.flat[window])
    rows, columns = (np.arange(length) for length in window.shape)
    np.testing.assert_array_equal(
        window, window[0, 0] + labels.shape[1] * rows[:, np.newaxis] + columns
    )


def test_crops_reach_from_little_more_than_the_object_to_the_whole_picture():
    labels = labels_of(60, 90, ellipse(60, 90, (55, 5), (4, 5)))  # rows 51..59, columns 0..10
    shapes = []
    for seed in range(200):
        crop, _ = crop_around(labels, labels, 1, np.random.default_rng(seed))
        shapes.append(crop.shape)
    sides = np.array(shapes)
    assert sides.min() >= int(11 * CROP_MIN_OVERSIZE)
    assert sides.min() <= 11 * CROP_MIN_OVERSIZE + 2
    assert tuple(sides.max(axis=0)) == (60, 90)
    assert len(set(shapes)) > 30


# Intensity


def padded_pictures():
    """Pixels (4, 3, 32, 48), grey, grey, colour, colour, 0 in the padding, 0..1 elsewhere."""
    random = torch.Generator().manual_seed(5)
    pixels = torch.rand(4, 3, 32, 48, generator=random)
    pixels[:2] = pixels[:2, :1]
    pixels[0, :, 20:], pixels[2, :, :, 31:] = 0, 0
    pixels[:, :, 0, 0], pixels[:, :, 1, 1] = 0, 1  # as `Frame.pixels` leaves them
    return pixels


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(8))
def test_changed_pixels_stay_in_0_to_1_and_padding_stays_0(seed):
    changed = change_intensity(padded_pictures(), EVERYTHING, generator(seed))
    assert changed.isfinite().all()
    assert changed.min() == 0
    assert (changed.amax(dim=(1, 2, 3)) == 1).all()  # of each, whatever its padding became
    assert (changed[0, :, 20:] == 0).all()
    assert (changed[2, :, :, 31:] == 0).all()
    assert (changed[1] - padded_pictures()[1]).abs().mean() > 0.01  # else nothing was changed


def test_grey_pictures_stay_grey():
    changed = change_intensity(padded_pictures(), EVERYTHING, generator(0))
    for channel in (1, 2):
        torch.testing.assert_close(changed[:2, channel], changed[:2, 0], rtol=0, atol=0)


def test_the_generator_decides_what_changes():
    one, again, other = (
        change_intensity(padded_pictures(), EVERYTHING, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_changes_pixels_stay_and_a_narrow_range_is_stretched():
    pixels = padded_pictures()
    assert torch.equal(change_intensity(pixels, NOTHING, generator(0)), pixels)
    stretched = change_intensity(0.25 + pixels[1:2] / 2, NOTHING, generator(0))
    torch.testing.assert_close(stretched, pixels[1:2], rtol=0, atol=FLOAT_TOLERANCE)


def test_grey_is_inverted_on_paper_and_colour_never():
    numbers = torch.tensor([[0.25, 0.5, 1, 0], [0.5, 1, 0.25, 0]])  # the last column is padding
    pixels = torch.stack([numbers.expand(3, 2, 4), numbers.expand(3, 2, 4).clone()])
    pixels[1, 2, 0, 0] = 0.3  # hardly a colour, but one
    changed = change_intensity(pixels, replace(NOTHING, invert=1), generator(0))
    inverted = torch.tensor([[0.75, 0.5, 0, 0], [0.5, 0, 0.75, 0]]) / 0.75  # and stretched to 1
    torch.testing.assert_close(changed[0], inverted.expand(3, 2, 4))
    kept = (pixels[1] - 0.25) / 0.75 * (numbers > 0)  # stretched only, its padding left alone
    torch.testing.assert_close(changed[1], kept)


def test_colours_get_a_gain_each_and_grey_none():
    changed = change_intensity(padded_pictures(), replace(NOTHING, colour=1), generator(0))
    assert torch.equal(changed[:2], padded_pictures()[:2])
    gains = (changed[3] / padded_pictures()[3].clamp_min(1e-3)).flatten(1).median(dim=1).values
    assert gains.max() / gains.min() > 1.1


@pytest.mark.parametrize("change", ["blur", "low_resolution"])
@pytest.mark.parametrize("centre", [(7, 40), (247, 16), (100, 247)])
def test_a_picture_that_loses_detail_does_not_move_from_under_its_labels(change, centre):
    pixels = torch.full((1, 3, 256, 256), 1e-9)  # black, but not padding
    pixels[..., centre[0] - 1 : centre[0] + 2, centre[1] - 1 : centre[1] + 2] = 1
    changed = change_intensity(pixels, replace(NOTHING, **{change: 1}), generator(0))[0, 0]
    for axis in (0, 1):
        weights = changed.sum(dim=1 - axis)
        moved = (weights * torch.arange(256)).sum() / weights.sum() - centre[axis]
        assert moved.abs() < SHIFT_TOLERANCE


# Boxes


@pytest.fixture
def exact_shifts(monkeypatch):
    """No loose boxes: sides move by whole pixels, at most MAX_SHIFTS."""
    monkeypatch.setattr(prompts, "LOOSE_SHARE", 0)


def mask_of(x_min, y_min, x_max, y_max):
    """Mask (256, 256) of a cross that touches all four sides of the box, inclusive."""
    mask = np.zeros((256, 256), bool)
    mask[(y_min + y_max) // 2, x_min : x_max + 1] = True
    mask[y_min : y_max + 1, (x_min + x_max) // 2] = True
    return mask


BOXES = [(100, 10, 140, 20), (0, 0, 8, 2), (247, 205, 255, 255), (0, 0, 255, 255), (60, 70, 60, 70)]


@pytest.mark.parametrize("box", BOXES)
def test_a_box_that_does_not_move_is_the_inclusive_box_of_the_mask(box, exact_shifts, monkeypatch):
    monkeypatch.setattr(prompts, "MAX_SHIFTS", (0,))
    assert tuple(boxes_around(mask_of(*box), np.random.default_rng(0))) == box


@pytest.mark.parametrize("box", BOXES)
def test_sides_move_outward_by_0_to_10_pixels_and_stay_in_the_input(box, exact_shifts):
    assert max(MAX_SHIFTS) == 10
    random = np.random.default_rng(0)
    found = np.array([boxes_around(mask_of(*box), random) for _ in range(300)])
    box = np.array(box)
    np.testing.assert_array_equal(found[:, :2].max(axis=0), box[:2])  # some side does not move
    np.testing.assert_array_equal(found[:, :2].min(axis=0), np.maximum(box[:2] - 10, 0))
    np.testing.assert_array_equal(found[:, 2:].min(axis=0), box[2:])
    np.testing.assert_array_equal(found[:, 2:].max(axis=0), np.minimum(box[2:] + 10, 256))
    np.testing.assert_array_equal(found, found.round())


def test_free_boxes_lie_anywhere_in_the_picture_and_not_in_its_padding():
    pixels = np.zeros((3, 256, 256), np.uint8)
    pixels[1, :100, :200] = 7
    pixels[:, 30:40] = 0  # black inside is no padding
    boxes = draw_free_boxes(torch.from_numpy(pixels), 2000, np.random.default_rng(0)).numpy()
    assert boxes.min() == 0
    assert boxes[:, [0, 2]].max() == 200
    assert boxes[:, [1, 3]].max() == 100
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= MIN_FREE_SIDE - 1  # rounded
    assert (np.median(sides, axis=0) < np.array([100, 50])).all()  # log-uniform: more small ones
    nothing = draw_free_boxes(torch.zeros(3, 256, 256), 2, np.random.default_rng(0))
    assert nothing.shape == (2, 4)
    assert draw_free_boxes(torch.from_numpy(pixels), 0, np.random.default_rng(0)).shape == (0, 4)


def test_shifts_go_outward_by_at_most_what_a_box_of_an_object_does():
    shifts = draw_shifts(2000, np.random.default_rng(0)).numpy()
    assert shifts.shape == (2000, 4)
    assert (shifts.min(axis=0) == 0).all()
    assert (shifts.max(axis=0) == max(MAX_SHIFTS)).all()
    assert len({tuple(row) for row in shifts.tolist()}) > 1000  # each side on its own
    assert draw_shifts(0, np.random.default_rng(0)).shape == (0, 4)


def test_boxes_of_masks_are_moved_outward_and_small_masks_keep_the_other_box():
    logits = torch.full((4, 256, 256), -1.0)
    logits[0, 10:31, 100:121] = 1
    logits[1, 255, 250:] = logits[1, 3, :2] = 1  # in the corners, and too small
    logits[2, :5, 3:8] = 1
    shifts = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [9, 9, 1, 1], [0, 0, 0, 0]])
    other = torch.arange(16.0).reshape(4, 4)
    boxes = pseudo_boxes(logits, shifts, other)
    assert boxes.tolist() == [[99, 8, 123, 34], [4, 5, 6, 7], [0, 0, 8, 5], [12, 13, 14, 15]]
    logits[1, :, 250:] = 1
    assert pseudo_boxes(logits, shifts, other)[1].tolist() == [0, 0, 255, 255]


def test_loose_boxes_are_larger_but_enclose_the_mask_all_the_same(monkeypatch):
    monkeypatch.setattr(prompts, "LOOSE_SHARE", 1)
    box, random = np.array([100, 90, 140, 170]), np.random.default_rng(0)
    found = np.array([boxes_around(mask_of(*box), random) for _ in range(300)])
    assert (found[:, :2] <= box[:2]).all()
    assert (found[:, 2:] >= box[2:]).all()
    added = np.concatenate([box[:2] - found[:, :2], found[:, 2:] - box[2:]], axis=1)
    largest = max(MAX_SHIFTS) + MAX_LOOSENESS / 2 * np.array([40, 80, 40, 80])
    assert (added <= largest).all()
    assert (added.max(axis=0) > 0.8 * largest).all()


def test_targets_are_the_objects_in_their_boxes():
    labels = np.zeros((256, 256), np.uint16)
    labels[10:20, 100:140], labels[200:250, 30:60], labels[100, :19] = 1, 4, 9
    boxes, targets = draw_prompts(labels, 40, np.random.default_rng(0))
    assert boxes.shape == (40, 4)
    assert boxes.dtype == targets.dtype == torch.float32
    drawn = Counter()
    for box, target in zip(boxes.numpy(), targets.numpy(), strict=True):
        number = labels[target > 0].min()
        drawn[int(number)] += 1
        np.testing.assert_array_equal(target, labels == number)
        ys, xs = np.nonzero(target)
        assert (box[:2] <= [xs.min(), ys.min()]).all()
        assert (box[2:] >= [xs.max(), ys.max()]).all()
    assert drawn.keys() == {1, 4}  # 9 is too small
    assert min(drawn.values()) >= 8  # of 40, evenly: 1 in 20 000 seeds has fewer


def test_boxes_hold_the_object_in_the_other_slices_and_targets_are_of_the_first():
    labels = np.zeros((256, 256, 3), np.uint16)
    labels[100:120, 100:120, 0] = 1
    labels[60:80, 110:130, 1] = 1
    labels[150:200, 90:110, 2] = 2  # another object
    boxes, targets = draw_prompts(labels, 8, np.random.default_rng(0))
    for box, target in zip(boxes.numpy(), targets.numpy(), strict=True):
        np.testing.assert_array_equal(target, labels[:, :, 0] == 1)
        assert box[0] <= 100
        assert box[1] <= 60
        assert box[2] >= 129
        assert box[3] >= 119
    assert boxes[:, 3].min() < 150  # the other object is in none


def test_a_map_of_specks_has_no_prompts():
    labels = np.zeros((256, 256), np.uint16)
    labels[100, :19] = 9
    assert draw_prompts(labels, 3, np.random.default_rng(0)) is None


# From corpus to input


def test_labels_of_2_by_4_blocks_keep_their_numbers_over_zero_padding():
    numbers = np.array([[1, 2, 0, 3], [60, 0, 300, 1]], np.uint16)
    framed = frame_labels(np.kron(numbers, np.ones((50, 50), np.uint16)))  # 100 x 200
    assert framed.shape == (256, 256)
    assert framed.dtype == np.uint16
    np.testing.assert_array_equal(framed[:128], np.kron(numbers, np.ones((64, 64))))
    assert (framed[128:] == 0).all()


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (300, 200), (123, 457)])
def test_labels_lie_where_the_framed_picture_shows_the_object(shape):
    mask = ellipse(*shape, (shape[0] * 0.6, shape[1] * 0.3), (shape[0] * 0.3, shape[1] * 0.2))
    pixels = Frame(*shape).pixels(np.where(mask, 255, 0).astype(np.uint8))[0, 0]
    labels = frame_labels(mask.astype(np.uint8)) > 0
    differ = labels != (pixels > 0.5)
    inner = cv2.erode(labels.astype(np.uint8), np.ones((5, 5))) > 0
    outer = cv2.dilate(labels.astype(np.uint8), np.ones((5, 5))) > 0
    assert not (differ & (inner | ~outer)).any()  # only at the border of the object


class Always:
    """A sampler, and the picture it always draws: 50 x 90 with an object and a speck."""

    labels = labels_of(
        50, 90, ellipse(50, 90, (20, 60), (12, 20)), ellipse(50, 90, (45, 5), (1, 1))
    )
    image = picture(50, 90, labels == 1, colour=True)

    def draw(self, random):
        return self

    def read(self):
        return self.image, self.labels

    def other_slices(self, picture, most, random):
        return []


class Stacked(Always):
    """A slice with another one of its volume, in which the object lies elsewhere."""

    def other_slices(self, picture, most, random):
        other = Always()
        other.labels = np.roll(Always.labels, 15, axis=1)
        return [other]


def test_labels_of_other_slices_are_framed_as_the_first():
    extent = replace(NOTHING, extent=1)
    _, labels = draw_picture(Stacked(), extent, np.random.default_rng(0))
    assert labels.shape == (256, 256, 2)
    np.testing.assert_array_equal(labels[:, :, 0], frame_labels(Always.labels))
    np.testing.assert_array_equal(labels[:, :, 1], frame_labels(np.roll(Always.labels, 15, 1)))


@pytest.mark.parametrize("seed", range(10))
def test_a_crop_holds_the_object_of_the_other_slices_too(seed):
    _, labels = draw_picture(Stacked(), replace(EVERYTHING, warp=0), np.random.default_rng(seed))
    whole = (Always.labels == 1).sum()
    shares = (labels == 1).sum(axis=(0, 1)) / whole
    assert shares[0] == pytest.approx(shares[1], rel=0.1)  # both whole, enlarged alike


@pytest.mark.parametrize("seed", range(5))
def test_a_warped_picture_and_its_labels_move_alike_about_the_centre(seed):
    labels = np.stack([ellipse(120, 90, centre, (30, 20)) for centre in ((60, 45), (50, 40))], 2)
    image = (labels * 255).astype(np.uint8)
    image = np.concatenate([image, image[:, :, :1]], axis=2)
    warped, moved = warp(image, labels.astype(np.uint16), np.random.default_rng(seed))
    assert (warped.shape, moved.shape, moved.dtype) == (image.shape, labels.shape, np.uint16)
    for plane in range(2):
        differs = (warped[:, :, plane] > 127) != (moved[:, :, plane] == 1)
        assert differs.mean() < 0.005  # edges
        assert 0.6 < moved[:, :, plane].sum() / labels[:, :, plane].sum() < 1.6
    ys, xs = np.nonzero(moved[:, :, 0])  # the first lies about the centre
    assert [xs.mean(), ys.mean()] == pytest.approx([44.5, 59.5], abs=1)
    assert (moved[:, :, 0] != labels[:, :, 0]).mean() > 0.01


def test_an_object_that_is_warped_out_of_the_picture_is_not_cropped_to():
    corner = Always()
    corner.labels = np.zeros_like(Always.labels)
    corner.labels[:5, :5] = 1
    left = []
    for seed in range(30):
        options = replace(NOTHING, warp=1, crop=1)
        _, labels = draw_picture(corner, options, np.random.default_rng(seed))
        left.append(labels.any())
    assert True in left and False in left


@pytest.mark.parametrize("seed", range(5))
def test_other_slices_are_warped_with_the_first(seed):
    options = replace(NOTHING, warp=1, extent=1)
    _, labels = draw_picture(Stacked(), options, np.random.default_rng(seed))
    whole = (Always.labels == 1).sum() * (256 / 90) ** 2
    shares = (labels == 1).sum(axis=(0, 1)) / whole
    assert 0.2 < shares.min() <= shares.max() < 1.7
    assert (labels[:, :, 0] != labels[:, :, 1]).any()


def test_a_picture_that_is_not_augmented_is_the_framed_one():
    pixels, labels = draw_picture(Always(), NOTHING, np.random.default_rng(0))
    assert pixels.dtype == np.uint8
    wanted = Frame(50, 90).pixels(Always.image)[0] * 255
    np.testing.assert_allclose(pixels, wanted, rtol=0, atol=0.5 + FLOAT_TOLERANCE * 255)
    np.testing.assert_array_equal(labels, frame_labels(Always.labels))


@pytest.mark.parametrize("seed", range(10))
def test_a_cropped_flipped_and_turned_picture_still_shows_its_object(seed):
    pixels, labels = draw_picture(Always(), EVERYTHING, np.random.default_rng(seed))
    assert pixels.shape == (3, 256, 256)
    assert labels.shape == (256, 256)
    assert objects_of(labels)[0] == 1
    red = pixels[0].astype(int)
    assert red[labels == 1].mean() > red[labels == 0].mean() + 60  # bright on dark, see `picture`


def test_pictures_without_objects_are_passed_over():
    empty = Always()
    empty.labels = np.zeros_like(Always.labels)

    class Sampler:
        left = [empty, empty, Always()]

        def draw(self, random):
            return self.left.pop(0)

    _, labels = draw_picture(Sampler(), NOTHING, np.random.default_rng(0))
    assert labels.any()
    assert Sampler.left == []


def test_a_corpus_of_specks_is_refused_and_does_not_wait_for_ever():
    class Specks:
        def draw(self, random):
            return self

        def read(self):
            return GREY, np.pad(np.ones((4, 4), np.uint8), ((0, 28), (0, 44)))

    with pytest.raises(CorpusError, match="has an object of 20 pixels"):
        draw_picture(Specks(), NOTHING, np.random.default_rng(0))


def test_an_unlabelled_picture_is_a_window_of_the_framed_one(tmp_path):
    write_shard(tmp_path / "US_Seen.tar", {"a.webp": GREY})
    sampler = BalancedSampler(read_corpus(tmp_path, labelled=False))
    whole = draw_unlabelled_picture(sampler, NOTHING, np.random.default_rng(0))
    np.testing.assert_array_equal(whole, np.round(Frame(*GREY.shape).pixels(GREY)[0] * 255))
    only_crop = replace(NOTHING, crop=1)
    windows = [
        draw_unlabelled_picture(sampler, only_crop, np.random.default_rng(seed))
        for seed in range(8)
    ]
    assert len({window.tobytes() for window in windows}) > 4
    most = round(256 * 32 / 48) + 256 // 12  # its shape, to a pixel of a window of 12
    for window in windows:
        assert window.shape == (3, 256, 256)
        assert not window[:, most:].any()


def test_black_inside_a_picture_is_no_padding():
    numbers = torch.tensor([[0.5, 0, 1, 0], [0, 0, 0.25, 0], [0, 0, 0, 0]])
    area = picture_area(numbers.expand(1, 3, 3, 4))
    wanted = [[True, True, True, False], [True, True, True, False], [False] * 4]
    assert area[0, 0].tolist() == wanted


def test_the_second_teacher_has_whole_upright_pictures_of_the_named_sets(tmp_path):
    for folder in ("train", "more"):
        (tmp_path / folder).mkdir()
    write_shard(tmp_path / "train" / "CT_Liver.tar", {"a.webp": GREY, "a.png": GREY_LABELS})
    write_shard(tmp_path / "train" / "MR_Brain.tar", {"b.webp": COLOUR, "b.png": COLOUR_LABELS})
    write_shard(tmp_path / "more" / "US_Kidney.tar", {"c.webp": GREY.T})
    source = CorpusSource(
        tmp_path / "train", EVERYTHING, [tmp_path / "more"], second_for=["CT", "US_Kidney"]
    )
    drawn = [source.draw_second(np.random.default_rng(seed)) for seed in range(20)]
    seen = {(pixels.tobytes(), labels.tobytes()) for pixels, labels in drawn}
    wanted = set()
    for image, labels in ((GREY, GREY_LABELS), (GREY.T, np.zeros_like(GREY_LABELS.T))):
        pixels = np.round(Frame(*image.shape).pixels(image)[0] * 255).astype(np.uint8)
        wanted.add((pixels.tobytes(), frame_labels(labels).tobytes()))
    assert seen == wanted


def test_an_unknown_set_for_the_second_teacher_is_refused_by_name(tmp_path):
    write_shard(tmp_path / "CT_Liver.tar", {"a.webp": GREY, "a.png": GREY_LABELS})
    with pytest.raises(CorpusError, match="'CT_Lung' is for the second teacher: no such"):
        CorpusSource(tmp_path, NOTHING, second_for=["CT", "CT_Lung"])
