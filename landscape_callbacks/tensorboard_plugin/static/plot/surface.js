// A rotatable surface on a 2-D canvas: quads sorted from back to front (the painter's algorithm), shaded by their slope.

import { element } from "../dom.js";
import { sized } from "./plot.js";
import { viridis } from "./colormap.js";
import { drawAxes } from "./surface_axes.js";
import { color, onThemeChange } from "./theme.js";

const START = { yaw: -0.7, pitch: 0.55, zoom: 1 };

/**
 * `show({xs, ys, values, share, height, path, marks, labels, label})`: `share(value)` maps a value to 0..1 for height and colour;
 * `height` is {kind, domain, title} of its axis; `path` is [{x, y, value}] drawn on the surface, `marks` single places
 * [{x, y, value, hollow}]; drag, arrow keys, plus and minus turn and zoom; a double click resets.
 */
export class SurfacePlot {
  constructor(height = 320) {
    this.view = { ...START };
    this.canvas = element("canvas");
    this.element = element(
      "div",
      { class: "plot surface", role: "img", tabindex: "0", style: { height: `${height}px` } },
      this.canvas,
    );
    this.visible = false;
    this.spec = null;
    new ResizeObserver(() => this.paint()).observe(this.element);
    new IntersectionObserver((entries) => this.seen(entries.at(-1).isIntersecting)).observe(this.element);
    onThemeChange(() => this.paint());
    this.element.addEventListener("pointerdown", (event) => this.grab(event));
    this.element.addEventListener("pointermove", (event) => this.drag(event));
    this.element.addEventListener("pointerup", () => (this.held = null));
    this.element.addEventListener("dblclick", () => this.turn({ ...START }));
    this.element.addEventListener("keydown", (event) => this.press(event));
  }

  show(spec) {
    this.spec = spec;
    this.element.setAttribute("aria-label", `${spec.label} Turn it with the arrow keys, zoom with plus and minus.`);
    this.paint();
  }

  seen(visible) {
    this.visible = visible;
    this.paint();
  }

  turn(view) {
    const between = (value, low, high) => Math.min(Math.max(value, low), high);
    this.view = { yaw: view.yaw, pitch: between(view.pitch, 0.02, 1.55), zoom: between(view.zoom, 0.4, 4) };
    this.element.dataset.yaw = this.view.yaw.toFixed(3);
    this.paint();
  }

  grab(event) {
    this.held = { x: event.clientX, y: event.clientY, ...this.view };
    this.element.setPointerCapture(event.pointerId);
  }

  drag(event) {
    if (!this.held) return;
    const [dx, dy] = [event.clientX - this.held.x, event.clientY - this.held.y];
    this.turn({ yaw: this.held.yaw + dx / 120, pitch: this.held.pitch + dy / 160, zoom: this.view.zoom });
  }

  press(event) {
    const { yaw, pitch, zoom } = this.view;
    const turned = {
      ArrowLeft: { yaw: yaw - 0.1, pitch, zoom },
      ArrowRight: { yaw: yaw + 0.1, pitch, zoom },
      ArrowUp: { yaw, pitch: pitch + 0.08, zoom },
      ArrowDown: { yaw, pitch: pitch - 0.08, zoom },
      "+": { yaw, pitch, zoom: zoom * 1.15 },
      "=": { yaw, pitch, zoom: zoom * 1.15 },
      "-": { yaw, pitch, zoom: zoom / 1.15 },
      0: { ...START },
    }[event.key];
    if (!turned || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.turn(turned);
  }

  paint() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    if (!this.spec || !this.visible || width < 80) return;
    const context = sized(this.canvas, width, height);
    const camera = makeCamera(this.view, width, height);
    const place = placeIn(this.spec);
    drawAxes(context, camera, place, this.spec, width, height);
    for (const shape of sortedShapes(this.spec, place, camera)) shape.draw(context);
    for (const { x, y, value, hollow } of this.spec.marks) {
      if (Number.isFinite(value)) drawMark(context, camera(raised(place(x, y, value))), hollow);
    }
  }
}

/** Projects a point of the cube [-1, 1]^3 (height last) to [x, y, depth]. */
function makeCamera({ yaw, pitch, zoom }, width, height) {
  // At the first view the nearest corner of the floor lies 1.6 units below the middle, the farthest top corner 1 above.
  const size = Math.min(width * 0.27, height * 0.31) * zoom;
  const middle = height * 0.4;
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return ([x, y, z]) => {
    const [right, away] = [x * cy - y * sy, x * sy + y * cy];
    const depth = away * cp - z * sp;
    const scale = size * (4 / (4 + depth));
    return [width / 2 + right * scale, middle - (away * sp + z * cp) * scale, depth];
  };
}

function placeIn({ xs, ys, share }) {
  const center = (grid) => [(grid[0] + grid.at(-1)) / 2, (grid.at(-1) - grid[0]) / 2 || 1];
  const [[xm, xr], [ym, yr]] = [center(xs), center(ys)];
  const level = (value) => Math.min(Math.max(share(value), 0), 1) * 1.1 - 0.55;
  return (x, y, value) => [(x - xm) / xr, (y - ym) / yr, level(value)];
}

function sortedShapes(spec, place, camera) {
  const shapes = [];
  const { xs, ys, values, share, path } = spec;
  for (let j = 0; j + 1 < ys.length; j += 1) {
    for (let i = 0; i + 1 < xs.length; i += 1) {
      const corners = [
        [0, 0],
        [1, 0],
        [1, 1],
        [0, 1],
      ].map(([di, dj]) => {
        const value = values[(j + dj) * xs.length + i + di];
        return { value, point: place(xs[i + di], ys[j + dj], value) };
      });
      if (corners.some(({ value }) => !Number.isFinite(value))) continue;
      const mean = corners.reduce((sum, { value }) => sum + share(value), 0) / 4;
      const light = 0.72 + 0.28 * slope(corners.map(({ point }) => point));
      shapes.push(
        quad(
          corners.map(({ point }) => camera(point)),
          viridis(mean).map((channel) => channel * light),
        ),
      );
    }
  }
  for (let index = 0; index + 1 < path.length; index += 1) {
    const [from, to] = [path[index], path[index + 1]].map(({ x, y, value }) => camera(raised(place(x, y, value))));
    if ([...from, ...to].every(Number.isFinite)) shapes.push(segment(from, to));
  }
  return shapes.sort((a, b) => b.depth - a.depth);
}

function raised([x, y, z]) {
  return [x, y, z + 0.02];
}

/** How much a quad faces the light, 0 to 1. */
function slope([a, b, , d]) {
  const [u, v] = [b, d].map((point) => point.map((value, axis) => value - a[axis]));
  const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const length = Math.hypot(...normal) || 1;
  return Math.max(0, (-0.4 * normal[0] - 0.3 * normal[1] + 0.87 * normal[2]) / length);
}

function quad(points, shade) {
  const style = `rgb(${shade.map(Math.round).join(" ")})`;
  const draw = (context) => {
    context.fillStyle = style;
    context.strokeStyle = style;
    context.lineWidth = 0.6;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.closePath();
    context.fill();
    context.stroke();
  };
  return { depth: points.reduce((sum, point) => sum + point[2], 0) / 4, draw };
}

function segment(from, to) {
  const draw = (context) => {
    context.strokeStyle = color("--path");
    context.lineWidth = 2.2;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(from[0], from[1]);
    context.lineTo(to[0], to[1]);
    context.stroke();
  };
  // A line on the surface must not sink into the quads around it.
  return { depth: (from[2] + to[2]) / 2 - 0.12, draw };
}

/** A place on the surface that is seen from all sides: filled, or hollow. */
function drawMark(context, [x, y], hollow) {
  context.beginPath();
  context.arc(x, y, hollow ? 4 : 6, 0, 2 * Math.PI);
  context.fillStyle = hollow ? "#ffffff" : color("--path");
  context.strokeStyle = hollow ? color("--path") : "#ffffff";
  context.lineWidth = 1.5;
  context.fill();
  context.stroke();
}
