// Where a pixel of a shown slice lies: voxel (k, j, i) of the file's grid, and millimetres.
//
// A plane, as the server describes it: `axes` has the axes of the grid (0 k, 1 j, 2 i) that are
// slice, row and column; `flipped` says which of them run against the grid; `size` counts them.

export function voxelOf(plane, index, x, y) {
  const voxel = [0, 0, 0];
  [index, y, x].forEach((place, n) => {
    voxel[plane.axes[n]] = plane.flipped[n] ? plane.size[n] - 1 - place : place;
  });
  return voxel;
}

/** Slice, row and column of a voxel. */
export function placeOf(plane, voxel) {
  return plane.axes.map((axis, n) =>
    plane.flipped[n] ? plane.size[n] - 1 - voxel[axis] : voxel[axis]);
}

/** First and last slice of a box ((k0, k1), (j0, j1), (i0, i1)), half open. */
export function slicesOf(plane, box) {
  const [first, end] = box[plane.axes[0]];
  const count = plane.size[0];
  return plane.flipped[0] ? [count - end, count - 1 - first] : [first, end - 1];
}

/** RAS millimetres of a voxel, by the affine of (i, j, k). */
export const mmOf = (affine, [k, j, i]) =>
  affine.slice(0, 3).map(([a, b, c, d]) => a * i + b * j + c * k + d);

const LETTERS = ["LR", "PA", "IS"];

/** "R 12.3  A 4.0  S 50.1 mm" */
export const mmWords = mm => mm.map((value, axis) =>
  `${LETTERS[axis][value < 0 ? 0 : 1]} ${Math.abs(value).toFixed(1)}`).join("  ") + " mm";

// What lies left, right, above and below in each plane; radiologists' order, as the server turns it.
export const SIDES = {
  axial: ["R", "L", "A", "P"], coronal: ["R", "L", "S", "I"], sagittal: ["A", "P", "S", "I"],
};

/**
 * Pixels [column, row] that a round brush touches on its way; places are {x, y}, in pixels.
 *
 * The brush is round on the screen: `aspect` has the width and the height of a pixel, and `radius`
 * is in the same unit. The pixel below the pointer always counts.
 */
export function* stroke(from, to, radius, [wide, high]) {
  const far = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y));
  const steps = Math.max(1, Math.ceil(far / Math.max(0.5, radius / 2 / Math.max(wide, high))));
  for (let step = 0; step <= steps; step++) {
    const x = from.x + (to.x - from.x) * step / steps, y = from.y + (to.y - from.y) * step / steps;
    yield [Math.floor(x), Math.floor(y)];
    for (let row = Math.floor(y - radius / high); row <= y + radius / high; row++) {
      for (let column = Math.floor(x - radius / wide); column <= x + radius / wide; column++) {
        const away = Math.hypot((column + 0.5 - x) * wide, (row + 0.5 - y) * high);
        if (away <= radius) yield [column, row];
      }
    }
  }
}
