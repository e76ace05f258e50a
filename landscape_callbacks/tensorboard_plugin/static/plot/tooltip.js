// One tooltip for all plots.

import { element, replace } from "../dom.js";

const box = element("div", { class: "tooltip", role: "tooltip", hidden: true });

/** Shows {title, rows: [{color, label, value}], text} beside the pointer. */
export function showTooltip({ title, rows = [], text = "" }, x, y) {
  if (!box.isConnected) document.body.append(box);
  replace(
    box,
    element("div", { class: "tooltip-title" }, title),
    rows.map((row) =>
      element(
        "div",
        { class: "tooltip-row" },
        element("span", { class: "swatch", style: { background: row.color ?? "transparent" } }),
        element("span", {}, row.label),
        element("strong", {}, row.value),
      ),
    ),
    text ? element("p", { class: "tooltip-text" }, text) : null,
  );
  box.hidden = false;
  const [width, height] = [box.offsetWidth, box.offsetHeight];
  const left = x + 16 + width > window.innerWidth ? x - width - 16 : x + 16;
  const top = Math.min(y + 12, window.innerHeight - height - 8);
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, top)}px`;
}

export function hideTooltip() {
  box.hidden = true;
}
