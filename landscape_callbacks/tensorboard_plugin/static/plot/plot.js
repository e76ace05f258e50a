// A plot: axes, layers drawn between them, a cursor, and values on hover. What is in it, the caller decides by layers.

import { element } from "../dom.js";
import { makeScale } from "./scales.js";
import { color, onThemeChange } from "./theme.js";
import { hideTooltip, showTooltip } from "./tooltip.js";

const MARGIN = { right: 14, top: 10, bottom: 38 };
const TITLE_WIDTH = 24;
export const STRIP = 7;
const FONT = "11px system-ui, sans-serif";

/**
 * `show(spec)` draws; spec:
 *   label      what the plot shows, in words, for those who cannot see it
 *   x, y       {kind: "linear" | "log" | "symlog", domain, title, positiveLow}
 *   above      layers that each draw a strip of height STRIP above the axes
 *   layers     functions (context, frame) that draw in the given order
 *   marks      layers that change with the chosen step; drawn on a second canvas, so that the first can stay
 *   key        when it equals the last one's, the layers are not drawn again
 *   hover      (x, y) -> {title, rows: [{color, label, value}], mark: {x, y}} or null
 *   pick       (x) -> void, on a click
 */
export class Plot {
  constructor(height = 240) {
    this.base = element("canvas");
    this.overlay = element("canvas");
    this.element = element(
      "div",
      { class: "plot", role: "img", style: { height: `${height}px` } },
      this.base,
      this.overlay,
    );
    this.spec = null;
    this.drawn = null;
    this.visible = false;
    this.pointer = null;
    new ResizeObserver(() => this.redraw()).observe(this.element);
    new IntersectionObserver((entries) => this.seen(entries.at(-1).isIntersecting), { rootMargin: "200px" }).observe(
      this.element,
    );
    onThemeChange(() => this.redraw());
    this.element.addEventListener("pointermove", (event) => this.hover(event));
    this.element.addEventListener("pointerleave", () => this.leave());
    this.element.addEventListener("click", (event) => this.pick(event));
  }

  show(spec) {
    this.spec = spec;
    this.element.setAttribute("aria-label", spec.label);
    this.element.classList.toggle("pickable", Boolean(spec.pick));
    this.paint();
  }

  redraw() {
    this.drawn = null;
    this.paint();
  }

  seen(visible) {
    this.visible = visible;
    this.paint();
  }

  paint() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    if (!this.spec || !this.visible || width < 80) return;
    if (this.drawn === null || this.spec.key === undefined || this.drawn !== this.spec.key) {
      const context = sized(this.base, width, height);
      this.frame = makeFrame(context, this.spec, width, height);
      drawAxes(context, this.frame, this.spec);
      for (const layer of this.spec.above ?? []) layer(context, this.frame);
      clipped(context, this.frame, () => {
        for (const layer of this.spec.layers) layer(context, this.frame);
      });
      this.drawn = this.spec.key ?? "";
    }
    this.paintOverlay();
  }

  paintOverlay() {
    if (!this.frame) return;
    const context = sized(this.overlay, this.element.clientWidth, this.element.clientHeight);
    clipped(context, this.frame, () => {
      for (const layer of this.spec.marks ?? []) layer(context, this.frame);
      if (this.pointer?.mark) {
        context.strokeStyle = color("--text-muted");
        context.setLineDash([2, 3]);
        context.beginPath();
        const x = this.frame.x(this.pointer.mark.x);
        context.moveTo(x, this.frame.top);
        context.lineTo(x, this.frame.top + this.frame.height);
        context.stroke();
      }
    });
  }

  hover(event) {
    if (!this.frame || !this.spec?.hover) return;
    const box = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const inside =
      x >= this.frame.left &&
      x <= this.frame.left + this.frame.width &&
      y >= 0 &&
      y <= this.frame.top + this.frame.height;
    this.pointer = inside ? this.spec.hover(this.frame.invertX(x), this.frame.invertY(y)) : null;
    if (this.pointer) showTooltip(this.pointer, event.clientX, event.clientY);
    else hideTooltip();
    this.paintOverlay();
  }

  leave() {
    this.pointer = null;
    hideTooltip();
    this.paintOverlay();
  }

  pick(event) {
    if (!this.frame || !this.spec?.pick) return;
    const x = event.clientX - this.element.getBoundingClientRect().left;
    if (x >= this.frame.left - 4 && x <= this.frame.left + this.frame.width + 4)
      this.spec.pick(this.frame.invertX(x));
  }
}

/** The canvas at the screen's resolution, cleared, with its unit set to CSS pixels. */
export function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.lineJoin = "round";
  return context;
}

/** Where the axes lie, and the maps from values to pixels and back. */
function makeFrame(context, spec, width, height) {
  const x = makeScale(spec.x.kind, spec.x.domain, spec.x.positiveLow);
  const y = makeScale(spec.y.kind, spec.y.domain, spec.y.positiveLow);
  const top = MARGIN.top + STRIP * (spec.above?.length ?? 0);
  const inner = height - top - MARGIN.bottom;
  context.font = FONT;
  const ticks = { x: [], y: y.ticks(Math.max(2, inner / 45)) };
  const left = TITLE_WIDTH + Math.max(20, ...ticks.y.map(({ label }) => context.measureText(label).width));
  ticks.x = x.ticks(Math.max(2, (width - left) / 90));
  const frame = {
    left,
    top,
    width: width - left - MARGIN.right,
    height: inner,
    ticks,
    ratio: window.devicePixelRatio || 1,
    scales: { x, y },
  };
  frame.x = (value) => frame.left + x.forward(value) * frame.width;
  frame.y = (value) => frame.top + (1 - y.forward(value)) * frame.height;
  frame.invertX = (pixel) => x.inverse((pixel - frame.left) / frame.width);
  frame.invertY = (pixel) => y.inverse(1 - (pixel - frame.top) / frame.height);
  return frame;
}

function drawAxes(context, frame, spec) {
  const bottom = frame.top + frame.height;
  context.font = FONT;
  context.lineWidth = 1;
  context.strokeStyle = color("--grid");
  context.fillStyle = color("--text-muted");
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const tick of frame.ticks.x) {
    const x = Math.round(frame.x(tick.value)) + 0.5;
    stroke(context, x, frame.top, x, bottom);
    context.fillText(tick.label, x, bottom + 6);
  }
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of frame.ticks.y) {
    const y = Math.round(frame.y(tick.value)) + 0.5;
    stroke(context, frame.left, y, frame.left + frame.width, y);
    context.fillText(tick.label, frame.left - 6, y);
  }
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.fillText(spec.x.title ?? "", frame.left + frame.width / 2, bottom + 33, frame.width);
  context.save();
  context.translate(11, frame.top + frame.height / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(spec.y.title ?? "", 0, 0, frame.height + MARGIN.bottom);
  context.restore();
}

/** A straight line in pixels. */
export function stroke(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

function clipped(context, frame, draw) {
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top - 1, frame.width, frame.height + 2);
  context.clip();
  draw();
  context.restore();
}
