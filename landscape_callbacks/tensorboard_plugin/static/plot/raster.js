// Layers that colour every pixel: heat maps over training, and planes.

// The last column, and one that stands alone, are seen also where they reach no farther than the end of the axis.
const LAST_PIXELS = 3;
const ALONE_PIXELS = 14;

/**
 * Columns side by side: each {from, to, curve} fills x from `from` to `to` with the values of `curve()`, {xs, ys}, along y.
 * Only the curves of columns that get a pixel are asked for.
 * `shade(value) -> [red, green, blue]`; where a column has no finite value nothing is drawn.
 */
export function heatColumns(measured, shade) {
  return (context, frame) => {
    const columns = widened(measured, frame);
    paint(context, frame, (image, width, height) => {
      const ys = Array.from({ length: height }, (_, row) => frame.invertY(frame.top + (row + 0.5) / frame.ratio));
      let at = 0;
      for (let pixel = 0; pixel < width; pixel += 1) {
        const x = frame.invertX(frame.left + (pixel + 0.5) / frame.ratio);
        while (at < columns.length - 1 && x >= columns[at].to) at += 1;
        if (!columns.length || x < columns[at].from || x > columns[at].to) continue;
        const { xs: grid, ys: values } = columns[at].curve();
        for (let row = 0; row < height; row += 1) {
          const value = interpolate(grid, values, ys[row]);
          if (Number.isFinite(value)) put(image, (row * width + pixel) * 4, shade(value));
        }
      }
    });
  };
}

function widened(columns, frame) {
  if (!columns.length) return columns;
  const last = { ...columns.at(-1) };
  const end = frame.invertX(frame.left + frame.width);
  const least = frame.invertX(frame.left + (columns.length > 1 ? LAST_PIXELS : ALONE_PIXELS)) - frame.invertX(frame.left);
  last.to = Math.max(last.to, last.from + least);
  last.from = Math.min(last.from, end - least);
  const before = columns.slice(0, -1).map((column) => ({ ...column, to: Math.min(column.to, last.from) }));
  return [...before, last];
}

/** A function on a grid, values[row of y][column of x] flat, interpolated bilinearly. */
export function heatGrid(xs, ys, values, shade) {
  return (context, frame) => {
    paint(context, frame, (image, width, height) => {
      const columns = places(xs, width, (pixel) => frame.invertX(frame.left + (pixel + 0.5) / frame.ratio));
      const rows = places(ys, height, (pixel) => frame.invertY(frame.top + (pixel + 0.5) / frame.ratio));
      for (let row = 0; row < height; row += 1) {
        if (!rows[row]) continue;
        const [j, v] = rows[row];
        for (let column = 0; column < width; column += 1) {
          if (!columns[column]) continue;
          const [i, u] = columns[column];
          const corner = j * xs.length + i;
          const below = values[corner] * (1 - u) + values[corner + 1] * u;
          const above = values[corner + xs.length] * (1 - u) + values[corner + xs.length + 1] * u;
          const value = below * (1 - v) + above * v;
          if (Number.isFinite(value)) put(image, (row * width + column) * 4, shade(value));
        }
      }
    });
  };
}

/** The value at a point of a bilinear grid; NaN outside. */
export function valueOnGrid(xs, ys, values, x, y) {
  const [column] = places(xs, 1, () => x);
  const [row] = places(ys, 1, () => y);
  if (!column || !row) return NaN;
  const [[i, u], [j, v]] = [column, row];
  const corner = j * xs.length + i;
  const below = values[corner] * (1 - u) + values[corner + 1] * u;
  return below * (1 - v) + (values[corner + xs.length] * (1 - u) + values[corner + xs.length + 1] * u) * v;
}

/** Linear interpolation on an increasing grid; NaN outside. */
export function interpolate(grid, values, x) {
  const place = locate(grid, x);
  if (!place) return NaN;
  const [index, weight] = place;
  return weight === 0 ? values[index] : values[index] * (1 - weight) + values[index + 1] * weight;
}

function locate(grid, x) {
  const last = grid.length - 1;
  if (last < 1 || !(x >= grid[0] && x <= grid[last])) return null;
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (grid[middle] <= x) low = middle;
    else high = middle;
  }
  return [low, (x - grid[low]) / (grid[low + 1] - grid[low] || 1)];
}

function places(grid, count, valueAt) {
  return Array.from({ length: count }, (_, pixel) => locate(grid, valueAt(pixel)));
}

function put(image, at, [red, green, blue]) {
  image.data[at] = red;
  image.data[at + 1] = green;
  image.data[at + 2] = blue;
  image.data[at + 3] = 255;
}

function paint(context, frame, color) {
  const [width, height] = [Math.round(frame.width * frame.ratio), Math.round(frame.height * frame.ratio)];
  if (width < 1 || height < 1) return;
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  color(image, width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(canvas, frame.left, frame.top, frame.width, frame.height);
}
