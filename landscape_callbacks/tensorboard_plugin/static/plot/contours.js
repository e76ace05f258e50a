// Lines of equal loss by marching squares (Lorensen & Cline 1987, in two dimensions).

/** A layer of contour lines of a grid, values[row of y][column of x] flat, at the given levels. */
export function contours(xs, ys, values, levels, { color, width = 0.7 }) {
  return (context, frame) => {
    context.save();
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    for (const level of levels) {
      for (let j = 0; j + 1 < ys.length; j += 1) {
        for (let i = 0; i + 1 < xs.length; i += 1) {
          for (const [x0, y0, x1, y1] of segments(xs, ys, values, i, j, level)) {
            context.moveTo(frame.x(x0), frame.y(y0));
            context.lineTo(frame.x(x1), frame.y(y1));
          }
        }
      }
    }
    context.stroke();
    context.restore();
  };
}

/** Where the level crosses the four edges of one cell, joined in pairs. */
function segments(xs, ys, values, i, j, level) {
  const corner = (di, dj) => [xs[i + di], ys[j + dj], values[(j + dj) * xs.length + i + di]];
  const ring = [corner(0, 0), corner(1, 0), corner(1, 1), corner(0, 1)];
  const crossings = [];
  for (let side = 0; side < 4; side += 1) {
    const [[x0, y0, v0], [x1, y1, v1]] = [ring[side], ring[(side + 1) % 4]];
    if (!Number.isFinite(v0) || !Number.isFinite(v1) || v0 < level === v1 < level) continue;
    const share = (level - v0) / (v1 - v0);
    crossings.push([x0 + share * (x1 - x0), y0 + share * (y1 - y0)]);
  }
  if (crossings.length < 2) return [];
  const pairs =
    crossings.length === 4
      ? [
          [0, 1],
          [2, 3],
        ]
      : [[0, 1]];
  return pairs.map(([a, b]) => [...crossings[a], ...crossings[b]]);
}
