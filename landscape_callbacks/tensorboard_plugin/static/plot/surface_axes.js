// The axes of a surface: places along the two near edges of its floor, and the height at the corner that stands outermost.

import { stroke } from "./plot.js";
import { makeScale } from "./scales.js";
import { color } from "./theme.js";

const FLOOR = -0.6;
const TICK_PIXELS = 42;
const LEAST_PIXELS = 45;
const NAME_PIXELS = 13;

/** The floor, the ticks and the names. `place(x, y, value)` maps to the cube, `camera` from the cube to pixels. */
export function drawAxes(context, camera, place, spec, width, height) {
  context.save();
  context.font = "11px system-ui, sans-serif";
  context.lineWidth = 1;
  context.strokeStyle = color("--grid-strong");
  context.fillStyle = color("--text-muted");
  context.textAlign = "center";
  context.textBaseline = "middle";
  const corners = [
    [-1, -1],
    [1, -1],
    [1, 1],
    [-1, 1],
  ].map(([x, y]) => [x, y, FLOOR]);
  polygon(context, corners.map(camera));
  const near = (a, b) => (camera(a)[2] < camera(b)[2] ? -1 : 1);
  const [ySide, xSide] = [near([0, -1, FLOOR], [0, 1, FLOOR]), near([-1, 0, FLOOR], [1, 0, FLOOR])];
  const bounds = { width, height };
  const value = spec.values[0];
  drawEdge(context, camera, bounds, {
    ends: [-1, 1].map((x) => [x, ySide, FLOOR]),
    at: (x) => [place(x, spec.ys[0], value)[0], ySide, FLOOR],
    domain: [spec.xs[0], spec.xs.at(-1)],
    name: spec.labels.x,
  });
  drawEdge(context, camera, bounds, {
    ends: [-1, 1].map((y) => [xSide, y, FLOOR]),
    at: (y) => [xSide, place(spec.xs[0], y, value)[1], FLOOR],
    domain: [spec.ys[0], spec.ys.at(-1)],
    name: spec.labels.y,
  });
  drawHeight(context, camera, place, spec, corners);
  context.restore();
}

/** One edge of the floor: ticks outside of it, and its name beyond them, along the edge, where it crosses nothing. */
function drawEdge(context, camera, bounds, { ends, at, domain, name }) {
  const [[x0, y0], [x1, y1]] = ends.map(camera);
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < LEAST_PIXELS) return;
  const [along, middle] = [
    [(x1 - x0) / length, (y1 - y0) / length],
    [(x0 + x1) / 2, (y0 + y1) / 2],
  ];
  const [cx, cy] = camera([0, 0, FLOOR]);
  const side = Math.sign(-along[1] * (middle[0] - cx) + along[0] * (middle[1] - cy)) || 1;
  const out = [-along[1] * side, along[0] * side];
  const [low, high] = domain;
  const margin = 0.07 * (high - low);
  let reach = 8;
  for (const { value, label } of makeScale("linear", domain).ticks(length / TICK_PIXELS)) {
    if (value < low + margin || value > high - margin) continue;
    const [x, y] = camera(at(value));
    stroke(context, x, y, x + 4 * out[0], y + 4 * out[1]);
    const extent = (Math.abs(out[0]) * context.measureText(label).width) / 2 + Math.abs(out[1]) * 6;
    context.fillText(label, x + out[0] * (7 + extent), y + out[1] * (7 + extent));
    reach = Math.max(reach, 7 + 2 * extent);
  }
  const angle = Math.atan2(along[1], along[0]);
  const turned = Math.abs(angle) > Math.PI / 2 ? angle + Math.PI : angle;
  const half = context.measureText(name).width / 2;
  const room = [Math.abs(along[0]) * half + 6, Math.abs(along[1]) * half + 6];
  context.save();
  context.translate(
    between(middle[0] + out[0] * (reach + NAME_PIXELS), room[0], bounds.width - room[0]),
    between(middle[1] + out[1] * (reach + NAME_PIXELS), room[1], bounds.height - room[1]),
  );
  context.rotate(turned);
  context.fillText(name, 0, 0);
  context.restore();
}

/** The height at the corner farthest left: nothing of the surface lies beyond it. */
function drawHeight(context, camera, place, { height }, corners) {
  const [cornerX, cornerY] = corners.reduce((best, next) => (camera(next)[0] < camera(best)[0] ? next : best));
  const at = (level) => camera([cornerX, cornerY, level]);
  const [bottom, top] = [at(FLOOR), at(0.6)];
  if (bottom[1] - top[1] < LEAST_PIXELS) return;
  stroke(context, bottom[0], bottom[1], top[0], top[1]);
  context.textAlign = "right";
  const count = (bottom[1] - top[1]) / 30;
  for (const { value, label } of makeScale(height.kind, height.domain).ticks(count)) {
    const [x, y] = at(place(0, 0, value)[2]);
    stroke(context, x, y, x - 4, y);
    context.fillText(label, x - 7, y);
  }
  context.textAlign = "center";
  context.fillText(height.title, top[0], top[1] - 11);
}

function polygon(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.closePath();
  context.stroke();
}

function between(value, low, high) {
  return low > high ? (low + high) / 2 : Math.min(Math.max(value, low), high);
}
