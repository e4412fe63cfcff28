// The masks of one slice: labels as the server has them, painted into a canvas of the slice's size.

const FILL = 0.35, LINE = 0.95; // opacity inside a mask, and on its border

export class Masks {
  constructor(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.labels = new Uint16Array(columns * rows);
    this.canvas = document.createElement("canvas");
    this.canvas.width = columns;
    this.canvas.height = rows;
    this.context = this.canvas.getContext("2d");
    this.isEmpty = true;
  }

  /** Take all labels of a slice; null: there are none. */
  replace(labels, objects) {
    if (!labels && this.isEmpty) return;
    if (labels) this.labels = labels;
    else this.labels.fill(0);
    this.isEmpty = !labels;
    this.paint(objects);
  }

  /** Take the labels of a part {row, column, rows, columns, labels}. */
  patch({ row, column, rows, columns, labels }, objects) {
    for (let y = 0; y < rows; y++) {
      const line = labels.subarray(y * columns, (y + 1) * columns);
      this.labels.set(line, (row + y) * this.columns + column);
    }
    this.isEmpty = false;
    this.paint(objects, column, row, columns, rows);
  }

  at(x, y) {
    return x < 0 || y < 0 || x >= this.columns || y >= this.rows ? 0 : this.labels[y * this.columns + x];
  }

  set(x, y, label) {
    this.labels[y * this.columns + x] = label;
    this.isEmpty = false;
  }

  /** Paint a part anew, and the pixels around it, whose border may have moved. */
  paint(objects, column = 0, row = 0, columns = this.columns, rows = this.rows) {
    const left = Math.max(0, column - 1), top = Math.max(0, row - 1);
    const width = Math.min(this.columns, column + columns + 1) - left;
    const height = Math.min(this.rows, row + rows + 1) - top;
    if (width <= 0 || height <= 0) return;
    const image = this.context.createImageData(width, height), { data } = image, { labels } = this;
    let from = 0;
    for (let y = top; y < top + height; y++) {
      for (let x = left; x < left + width; x++, from += 4) {
        const n = y * this.columns + x, label = labels[n];
        if (!label) continue;
        const object = objects.get(label);
        if (!object || object.hidden) continue;
        const inside = x > 0 && y > 0 && x < this.columns - 1 && y < this.rows - 1
          && labels[n - 1] === label && labels[n + 1] === label
          && labels[n - this.columns] === label && labels[n + this.columns] === label;
        [data[from], data[from + 1], data[from + 2]] = object.colour;
        data[from + 3] = 255 * (inside ? FILL : LINE);
      }
    }
    this.context.putImageData(image, left, top);
  }
}
