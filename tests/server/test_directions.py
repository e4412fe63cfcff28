"""Which way round the volumes of nnInteractive's clients lie, who do not say it."""

import numpy as np
import pytest

from swiftmedsam.server.files import Files
from swiftmedsam.server.hub import Hub, Limits
from swiftmedsam.server.nninteractive import Face
from swiftmedsam.server.packed import pack
from swiftmedsam.server.slices import planes_of
from tests.helpers import BrightInBox
from tests.helpers.server import phantom

SHAPE, MEMORY = (11, 48, 56), 8 << 30
VOLUME = phantom(SHAPE, ((5, 16, 16), 4))


def sent(volume, spacing, **more):
    """The image that the server makes of a volume (K, J, I)."""
    hub = Hub(BrightInBox(), Limits(MEMORY), Files(), **more)
    return Face(hub)._opened(pack(volume[np.newaxis]), spacing, MEMORY)


def shown(image, volume):
    """The slice that a person sees in the middle."""
    return planes_of(image.scan)[0].shown(volume, SHAPE[0] // 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_volume_of_napari_is_seen_upright(sign):
    """Its reader turns volumes so that i runs to the right, j to the front; signs say so."""
    volume = VOLUME[:, ::sign, ::sign]
    image = sent(volume, [3.0 * sign, sign, sign])
    np.testing.assert_array_equal(image.scan.spacing_mm, [1, 1, 3])
    np.testing.assert_array_equal(shown(image, volume), VOLUME[5])


def test_of_other_volumes_the_servers_option_counts():
    volume = VOLUME[:, ::-1, ::-1]
    image = sent(volume, [3.0, 1, 1], directions="RAS")
    np.testing.assert_array_equal(shown(image, volume), VOLUME[5])
    image = sent(volume, [3.0, -1, 1])  # of one sign nobody knows what it means
    np.testing.assert_array_equal(image.scan.spacing_mm, [1, 1, 3])
    np.testing.assert_array_equal(shown(image, volume), volume[5])
