"""Stand-ins for the cases of Table 5: their shapes, and that boxes move with the pixels."""

import numpy as np
import pytest

from swiftmedsam.evaluation.published import MADE, TABLE_5, published_name
from swiftmedsam.evaluation.timing.table5 import (
    SETS,
    SourceCase,
    Wanted,
    choose,
    choose_depth,
    choose_grid,
    count_box_slices,
    find_sources,
    main,
    make,
    slice_at,
    tiled_boxes,
)
from swiftmedsam.npz import read_case
from tests.helpers import make_case_file


def source(path, **changed):
    fields = {"modality": "CT", "shape": (1, 30, 40), "boxes": 1, **changed}
    return SourceCase(path, **fields)


def block(shape, box):
    """Bright inside `box` (x, y, z, x, y, z; inclusive), dark elsewhere."""
    x_min, y_min, z_min, x_max, y_max, z_max = box
    volume = np.full(shape, 20, np.uint8)
    volume[z_min : z_max + 1, y_min : y_max + 1, x_min : x_max + 1] = 200
    return volume


def extent(mask):
    """Box (x, y, z, x, y, z) of the pixels of a mask (D, H, W)."""
    z, y, x = (axis.tolist() for axis in np.nonzero(mask))
    return [min(x), min(y), min(z), max(x), max(y), max(z)]


def test_the_sets_are_the_table_and_the_four_figures():
    assert [each.name for each in SETS["table5"]] == [name + MADE for name in TABLE_5]
    assert len(SETS["table5"]) == 14
    assert [(each.shape, each.boxes, each.box_slices) for each in SETS["figures"]] == [
        ((256, 256), 1, 1), ((1920, 2560), 241, 241), ((60, 512, 512), 1, 56),
        ((60, 512, 512), 6, 295),
    ]  # fmt: skip


def test_no_volume_is_asked_for_more_slices_than_its_boxes_can_cross():
    for wanted in (*SETS["table5"], *SETS["figures"]):
        assert wanted.boxes <= wanted.box_slices <= wanted.boxes * wanted.depth


def test_a_stand_in_has_the_name_of_its_row():
    assert published_name("3DBox_CT_0566-made.npz") == "3DBox_CT_0566"
    assert published_name("3DBox_CT_0566.npz") == "3DBox_CT_0566"
    assert published_name("3DBox_CT_1x56-made.npz") is None


def test_a_volume_is_made_of_one_whose_boxes_cross_enough_slices(tmp_path):
    wanted = Wanted("3DBox_CT_1", (60, 512, 512), 2, 100)
    flat = source(tmp_path / "3DBox_CT_a.npz", shape=(30, 257, 257), boxes=2,
                  spans=((0, 12), (10, 29)))  # fmt: skip
    deep = source(tmp_path / "3DBox_CT_b.npz", shape=(30, 200, 200), boxes=2,
                  spans=((0, 29), (5, 29)))  # fmt: skip
    assert (flat.crosses_enough(wanted), deep.crosses_enough(wanted)) == (False, True)
    assert choose([flat, deep], wanted) == deep
    assert choose([flat], wanted) == flat  # if there is no other
    fewer = Wanted("3DBox_CT_1", (60, 512, 512), 2, 60)
    assert choose([flat, deep], fewer) == flat  # the larger one


def test_copies_are_mirrored_at_their_seams_and_so_are_their_boxes():
    box = [1, 2, 0, 5, 3, 0]
    boxes = tiled_boxes(np.array([box], np.float64), (10, 12), (2, 3))
    plane = block((1, 10, 12), box)[0]
    tiled = np.pad(plane, ((0, 10), (0, 24)), mode="symmetric")
    assert len(boxes) == 6
    painted = np.zeros_like(tiled, bool)
    for x_min, y_min, _, x_max, y_max, _ in boxes.astype(int):
        painted[y_min : y_max + 1, x_min : x_max + 1] = True
    assert (painted == (tiled == 200)).all()


@pytest.mark.parametrize(
    ("boxes", "needed", "size", "grid"),
    [(5, 5, (300, 400), (1, 1)), (5, 6, (300, 400), (2, 2)), (1, 2, (300, 800), (1, 2)),
     (1, 2, (600, 400), (2, 1)), (1, 5, (300, 450), (2, 3))],
)  # fmt: skip
def test_tiles_are_few_and_keep_the_proportions(tmp_path, boxes, needed, size, grid):
    wanted = Wanted("2DBox_US_1", size, needed, needed)
    assert choose_grid(source(tmp_path, boxes=boxes), wanted) == grid


def test_the_source_is_of_the_modality_then_has_boxes_enough_then_is_large(tmp_path):
    def named(name, modality, boxes, side):
        return source(tmp_path / name, modality=modality, boxes=boxes, shape=(9, side, side))

    sources = [
        named("3DBox_MR_a.npz", "MR", 9, 900), named("3DBox_CT_b.npz", "CT", 2, 500),
        named("3DBox_CT_c.npz", "CT", 6, 100), named("3DBox_CT_d.npz", "CT", 7, 200),
        named("3DBox_CT_e.npz", "CT", 6, 200), named("2DBox_CT_f.npz", "CT", 6, 900),
    ]  # fmt: skip
    ranked = []
    while sources[1:]:
        ranked.append(choose(sources, Wanted("3DBox_CT_1", (9, 512, 512), 6, 54)))
        sources.remove(ranked[-1])
    assert [each.path.name[6:10] for each in ranked] == ["CT_d", "CT_e", "CT_c", "CT_b", "MR_a"]


@pytest.mark.parametrize(
    ("wanted_slices", "stretched"), [(1, 1), (2, 2), (10, 10), (11, 11), (20, 20), (50, 30)]
)
def test_slices_are_the_fewest_whose_boxes_cross_enough(wanted_slices, stretched):
    boxes = np.array([[0, 0, 0, 9, 9, 9.0]])  # all slices
    wanted = Wanted("3DBox_CT_1", (30, 8, 8), 1, wanted_slices)
    assert choose_depth(boxes, 10, wanted) == stretched


def test_slices_between_are_blends_and_the_ends_are_mirrored():
    pixels = np.array([0, 100, 200], np.uint8).reshape(3, 1, 1)

    def values(stretched, positions):
        return [round(float(slice_at(pixels, z, stretched)[0, 0])) for z in positions]

    assert values(3, range(-4, 7)) == [200, 200, 100, 0, 0, 100, 200, 200, 100, 0, 0]
    assert values(6, range(6)) == [0, 25, 75, 125, 175, 200]


def test_boxes_of_a_volume_move_with_its_pixels(tmp_path):
    box = [2, 3, 1, 11, 8, 4]
    path = make_case_file(tmp_path, "3DBox_CT_a.npz", imgs=block((6, 20, 24), box), boxes=[box])
    wanted = Wanted("3DBox_CT_1", (31, 50, 72), 1, 8)
    arrays = make(source(path, shape=(6, 20, 24)), wanted)
    assert arrays["imgs"].shape == wanted.shape and arrays["imgs"].dtype == np.uint8
    stretched = 10  # slices 1..4 of 6 touch 1..8 of these
    first = (31 - stretched) // 2
    assert arrays["boxes"].tolist() == [[6, 7, first + 1, 35, 22, first + 8]]
    assert count_box_slices(arrays["boxes"]) == 8
    middle = arrays["imgs"][first : first + stretched] > 110
    found = np.array(extent(middle)) + [0, 0, first, 0, 0, first]
    assert (abs(found - arrays["boxes"][0]) <= 1).all()
    assert arrays["spacing"].tolist() == pytest.approx([1 / 3, 2 / 2.5, 3 * 6 / 10])


def test_boxes_of_an_image_are_as_many_as_wanted_and_grey_becomes_colour(tmp_path):
    box = [2, 3, 8, 11]
    path = make_case_file(
        tmp_path, "2DBox_US_a.npz", imgs=block((1, 20, 24), [2, 3, 0, 8, 11, 0])[0], boxes=[box]
    )
    wanted = Wanted("2DBox_US_1", (80, 96), 3, 3)
    arrays = make(source(path, shape=(1, 20, 24)), wanted)
    assert arrays["imgs"].shape == (80, 96, 3)
    assert arrays["boxes"].tolist() == [[4, 6, 17, 23], [4, 56, 17, 73], [78, 56, 91, 73]]
    for x_min, y_min, x_max, y_max in arrays["boxes"]:
        assert (arrays["imgs"][y_min + 1 : y_max, x_min + 1 : x_max] > 110).all()
    assert (arrays["imgs"] > 110).sum() == pytest.approx(4 * 3 * 14 * 18, rel=0.02)  # of 4 tiles


def test_the_command_makes_cases_that_the_program_reads_and_the_same_ones_again(
    tmp_path, monkeypatch, capsys
):
    inputs, outs = tmp_path / "inputs", [tmp_path / "a", tmp_path / "b"]
    inputs.mkdir()
    for name in ("2DBox_US_a.npz", "3DBox_MR_b.npz"):
        make_case_file(inputs, name)
    small = (
        Wanted("2DBox_US_1" + MADE, (70, 90), 5, 5), Wanted("3DBox_CT_2" + MADE, (9, 40, 44), 2, 8)
    )  # fmt: skip
    monkeypatch.setitem(SETS, "figures", small)
    for out in outs:
        assert main([str(inputs), str(out), "--set", "figures"]) == 0
    printed = capsys.readouterr().out
    assert "3DBox_CT_2-made  9x40x44  2 boxes, 9 slices of them  of 3DBox_MR_b.npz" in printed
    for wanted in small:
        first, second = (out / f"{wanted.name}.npz" for out in outs)
        case = read_case(first)
        assert case.label_shape == wanted.shape and len(case.boxes) == wanted.boxes
        with np.load(first) as one, np.load(second) as other:
            assert set(one.files) == set(other.files)
            assert all((one[key] == other[key]).all() for key in one.files)


def test_a_folder_without_volumes_is_an_error_and_cases_without_boxes_are_no_sources(
    tmp_path, capsys
):
    make_case_file(tmp_path, "2DBox_US_a.npz")
    make_case_file(tmp_path, "3DBox_CT_a.npz", boxes=np.zeros((0, 6)))
    assert [each.path.name for each in find_sources(tmp_path)] == ["2DBox_US_a.npz"]
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no 3DBox case with boxes to make 3DBox_CT_0566-made of" in capsys.readouterr().err
