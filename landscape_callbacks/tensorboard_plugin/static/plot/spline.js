// The cubic spline that slices are drawn by: the one of surface/adaptive.py (not-a-knot ends, de Boor 1978), so that the page
// shows the curve whose error was recorded. Points that are not finite cut it.

const cache = new WeakMap();

/** {xs, ys} of the spline through points with `refinement` places in each interval; computed once for each array of values. */
export function splineCurve(xs, ys, refinement = 6) {
  if (!cache.has(ys)) cache.set(ys, dense(xs, ys, refinement));
  return cache.get(ys);
}

function dense(xs, ys, refinement) {
  const bends = secondDerivatives(xs, ys);
  const places = [];
  const values = [];
  for (let index = 0; index + 1 < xs.length; index += 1) {
    const h = xs[index + 1] - xs[index];
    for (let part = 0; part < refinement; part += 1) {
      const b = part / refinement;
      const a = 1 - b;
      const bent = (((a ** 3 - a) * bends[index] + (b ** 3 - b) * bends[index + 1]) * h * h) / 6;
      places.push(xs[index] + b * h);
      values.push(part === 0 ? ys[index] : a * ys[index] + b * ys[index + 1] + bent);
    }
  }
  if (xs.length) {
    places.push(xs.at(-1));
    values.push(ys.at(-1));
  }
  return { xs: Float64Array.from(places), ys: Float64Array.from(values) };
}

/** Second derivatives at the points, for each run of finite values by itself. */
function secondDerivatives(xs, ys) {
  const bends = new Float64Array(xs.length).fill(NaN);
  let start = 0;
  while (start < xs.length) {
    let end = start;
    while (end < xs.length && Number.isFinite(ys[end])) end += 1;
    if (end > start) bends.set(solve(xs.subarray(start, end), ys.subarray(start, end)), start);
    start = Math.max(end, start) + 1;
  }
  return bends;
}

function solve(x, y) {
  const n = x.length;
  const h = Float64Array.from({ length: n - 1 }, (_, i) => x[i + 1] - x[i]);
  const slope = h.map((width, i) => (y[i + 1] - y[i]) / width);
  if (n < 3) return new Float64Array(n);
  if (n === 3) return new Float64Array(3).fill((2 * (slope[1] - slope[0])) / (h[0] + h[1]));
  // Inner rows: h[i-1] m[i-1] + 2 (h[i-1] + h[i]) m[i] + h[i] m[i+1] = 6 (slope[i] - slope[i-1]). The ends are put in:
  // m[0] = ((h0 + h1) m[1] - h0 m[2]) / h1, and so at the other end. What is left is tridiagonal.
  const size = n - 2;
  const lower = h.slice(0, size);
  const upper = h.slice(1);
  const diagonal = Float64Array.from({ length: size }, (_, k) => 2 * (h[k] + h[k + 1]));
  const right = Float64Array.from({ length: size }, (_, k) => 6 * (slope[k + 1] - slope[k]));
  const [h0, h1, hy, hz] = [h[0], h[1], h[n - 3], h[n - 2]];
  diagonal[0] += (h0 * (h0 + h1)) / h1;
  upper[0] -= (h0 * h0) / h1;
  diagonal[size - 1] += (hz * (hz + hy)) / hy;
  lower[size - 1] -= (hz * hz) / hy;
  for (let k = 1; k < size; k += 1) {
    const factor = lower[k] / diagonal[k - 1];
    diagonal[k] -= factor * upper[k - 1];
    right[k] -= factor * right[k - 1];
  }
  const m = new Float64Array(n);
  for (let k = size - 1; k >= 0; k -= 1)
    m[k + 1] = (right[k] - (k + 1 < size ? upper[k] * m[k + 2] : 0)) / diagonal[k];
  m[0] = ((h0 + h1) * m[1] - h0 * m[2]) / h1;
  m[n - 1] = ((hz + hy) * m[n - 2] - hz * m[n - 3]) / hy;
  return m;
}
