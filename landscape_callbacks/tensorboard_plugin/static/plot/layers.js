// What can be drawn between the axes of a plot. Each function returns a layer: (context, frame) -> void.

import { faded } from "./theme.js";

/** A line through points; gaps where a value is not finite. */
export function line(xs, ys, { color, width = 1.6, dash = [], opacity = 1 }) {
  return (context, frame) => {
    context.save();
    context.globalAlpha = opacity;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    let down = false;
    for (let index = 0; index < xs.length; index += 1) {
      const y = frame.y(ys[index]);
      if (!Number.isFinite(ys[index]) || !Number.isFinite(y)) {
        down = false;
      } else if (down) {
        context.lineTo(frame.x(xs[index]), clamp(y, frame));
      } else {
        context.moveTo(frame.x(xs[index]), clamp(y, frame));
        down = true;
      }
    }
    context.stroke();
    context.restore();
  };
}

/** Dots at points. */
export function dots(xs, ys, { color, radius = 2.4, outline = null }) {
  return (context, frame) => {
    context.save();
    context.fillStyle = color;
    for (let index = 0; index < xs.length; index += 1) {
      if (!Number.isFinite(ys[index])) continue;
      context.beginPath();
      context.arc(frame.x(xs[index]), frame.y(ys[index]), radius, 0, 2 * Math.PI);
      context.fill();
      if (outline) {
        context.strokeStyle = outline;
        context.lineWidth = 1.5;
        context.stroke();
      }
    }
    context.restore();
  };
}

/** A band between two curves, such as value ± error. */
export function band(xs, lows, highs, { color, opacity = 0.18 }) {
  return (context, frame) => {
    context.save();
    context.fillStyle = faded(color, opacity);
    let index = 0;
    while (index < xs.length) {
      const start = index;
      while (index < xs.length && Number.isFinite(lows[index]) && Number.isFinite(highs[index])) index += 1;
      if (index > start) {
        context.beginPath();
        for (let at = start; at < index; at += 1) context.lineTo(frame.x(xs[at]), clamp(frame.y(highs[at]), frame));
        for (let at = index - 1; at >= start; at -= 1)
          context.lineTo(frame.x(xs[at]), clamp(frame.y(lows[at]), frame));
        context.closePath();
        context.fill();
      }
      index += 1;
    }
    context.restore();
  };
}

/** A vertical line. */
export function verticalRule(x, { color, width = 1.2, dash = [] }) {
  return (context, frame) => {
    context.save();
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(frame.x(x), frame.top);
    context.lineTo(frame.x(x), frame.top + frame.height);
    context.stroke();
    context.restore();
  };
}

/** Words at the upper right corner, such as what lies beyond the axis; `row` counts from the top. */
export function note(text, row, { color, paper }) {
  return (context, frame) => {
    context.save();
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "top";
    const [right, top] = [frame.left + frame.width - 6, frame.top + 4 + 16 * row];
    const width = context.measureText(text).width;
    context.fillStyle = paper;
    context.fillRect(right - width - 3, top - 2, width + 6, 15);
    context.fillStyle = color;
    context.fillText(text, right, top);
    context.restore();
  };
}

// Far outside the axes a canvas loses precision; just outside is as good.
function clamp(y, frame) {
  return Math.min(Math.max(y, frame.top - frame.height), frame.top + 2 * frame.height);
}
