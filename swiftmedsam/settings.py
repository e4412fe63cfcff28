"""Every choice of the method, as one value.

`BEST` is the default. `LITEMEDSAM` has the rules of LiteMedSAM, the challenge's baseline
(docs/architecture.md). An ablation is a copy with other values:

    replace(BEST, crop_weight=1.0)            # small boxes by their crops alone
    replace(BEST, prompts=("given",))         # every slice of a volume by the given box

docs/decisions has the measurements behind the values of `BEST`. Input pixels are those of the
network's input of 256 x 256.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

GIVEN, TAPERED, TRACKED, PREVIOUS = "given", "tapered", "tracked", "previous"
PROMPTS = (GIVEN, TAPERED, TRACKED, PREVIOUS)


@dataclass(frozen=True)
class Settings:
    """How boxes become masks. `BEST` has these values.

    Raises:
        ValueError: a value is out of its range; the message names the field.
    """

    # The frames that a box is shown in (`views`): the whole slice, and crops of it.
    small_box: int = 43  # input pixels; a box whose longer side is shorter gets an enlarged crop
    image_crops: int = 4  # most crops of an image; 0: none
    volume_crops: int = 2  # most crops of a slice of a volume; 0: none
    zooms: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32)  # crop sides in box sides, preferred first
    crop_margin: float = 0.5  # least distance of a box from its crop's border, in box sides
    least_crop: int = 32  # slice pixels; a smaller crop would show interpolated pixels only
    least_gain: float = 1.5  # a crop is used if the slice is longer by this factor
    # Weight of a crop's logits; those of the whole slice have the rest. With 1 a box with a crop is
    # not shown in the whole slice.
    crop_weight: float = 2 / 3
    mirror_images: bool = True  # show large boxes of an image mirrored, too; both logits count 1/2

    # Which slices of a volume are decoded (`schedule`); masks of the others are interpolated.
    step: int | None = None  # 1: every slice, 2: every second, ...; None: by the next two
    least_decoded: int = 15  # the step is the largest that leaves so many slices of the box,
    most_step: int = 3  # but at most this one

    # The prompts of a slice of a volume (`prompts`). Logits of several prompts are averaged.
    #   given     the user's box
    #   tapered   a box as large as objects usually are at this depth of their box
    #   tracked   the box around the mask that optical flow moved here from the previous slice
    #   previous  the box around the previous slice's mask
    # An image, and the first decoded slice of a box, have the given box only.
    prompts: tuple[str, ...] = (GIVEN, TAPERED, TRACKED)
    prompt_margin: int | None = 1  # input pixels around a given box; None: LiteMedSAM's rounding
    previous_margin: int = 3  # input pixels around the previous mask; LiteMedSAM's bbox_shift
    tapered_margin: int = 1  # input pixels around a tapered box
    tracked_margin: int = 2  # input pixels around a tracked mask
    # Tracked mask = renewal x this slice's mask + (1 - renewal) x the mask tracked into this slice.
    renewal: float = 0.3
    # The usual size of an object in a slice, in sizes of its box, by the slice's distance from the
    # box's middle, in tenths of half the box's depth: a smooth curve through the means of 33 data
    # sets of the training corpus (`python -m swiftmedsam.train.tools.taper`).
    taper: tuple[float, ...] = (0.90, 0.89, 0.88, 0.86, 0.83, 0.79, 0.74, 0.66, 0.57, 0.45, 0.25)

    # From masks to labels (`masks`).
    cut_to_box: bool = True  # a mask ends at the given box
    smaller_box_wins: bool = True  # where masks overlap; False, and for equal boxes: the later box

    # How far an object is followed from boxes that are one slice thick (`extend`, `follow`). It has
    # ended where a slice shows one of these signs (docs/decisions/042-extend.md).
    extend_least_area: float = 0.4  # a smaller mask, in areas of the largest one on this way
    # a smaller share of the mask's brightness values that the given slice's mask has, too
    extend_least_likeness: float = 0.55
    extend_least_agreement: float = 0.4  # a smaller IoU with the mask that flow carried there
    extend_least_iou: float = 0.5  # a smaller predicted IoU, in that of the given slice
    extend_gap: int = 0  # so many slices in a row with a sign are passed over
    extend_most: int = 256  # slices at most, in each direction
    extend_reach: float = 0.25  # how far a mask may reach out of its neighbour's box, in its sides

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("small_box", "image_crops", "volume_crops", "previous_margin"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("extend_most", "extend_gap", "extend_reach"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("area", "likeness", "agreement", "iou"):
            field_name = f"extend_least_{name}"
            self._require(field_name, 0 <= getattr(self, field_name) <= 1, "between 0 and 1")
        for name in ("least_crop", "least_decoded", "most_step"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("crop_weight", "renewal"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("step", self.step is None or self.step >= 1, "1 or more, or None")
        self._require("zooms", bool(self.zooms) and min(self.zooms) >= 1, "numbers of 1 or more")
        self._require("taper", len(self.taper) >= 2, "2 or more numbers")
        known = bool(self.prompts) and set(self.prompts) <= set(PROMPTS)
        self._require("prompts", known, f"some of {', '.join(PROMPTS)}")

    def _require(self, name: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise ValueError(f"{name} should be {wanted}, got {getattr(self, name)!r}")

    @property
    def uses_tracking(self) -> bool:
        """Whether tracked masks are needed, and not only the box around the previous mask."""
        return TRACKED in self.prompts


BEST = Settings()
LITEMEDSAM = Settings(
    image_crops=0,
    volume_crops=0,
    mirror_images=False,
    step=1,
    prompts=(PREVIOUS,),
    prompt_margin=None,
    cut_to_box=False,
    smaller_box_wins=False,
)

# Names on the command line. "exact" is the name of "litemedsam" in 0.1; 0.3 will not have it.
MODES: Mapping[str, Settings] = MappingProxyType(
    {"best": BEST, "litemedsam": LITEMEDSAM, "exact": LITEMEDSAM}
)


def changed(settings: Settings, values: Mapping[str, object]) -> Settings:
    """A copy of `settings` with other values, from JSON: lists become tuples.

    Raises:
        ValueError: a field is unknown, or a value has another type or is out of range.
    """
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"there is no setting '{name}'")
        value = tuple(value) if isinstance(value, list) else value
        wanted = kinds[name]
        numbers = (int, float, type(None)) if wanted in (float, int, type(None)) else (wanted,)
        if not isinstance(value, numbers) or isinstance(value, bool) != (wanted is bool):
            now = getattr(settings, name)
            example = "a number" if now is None else f"like {now!r}"
            raise ValueError(f"{name} should be {example}, got {value!r}")
        checked[name] = value
    return replace(settings, **checked)  # type: ignore[arg-type]
