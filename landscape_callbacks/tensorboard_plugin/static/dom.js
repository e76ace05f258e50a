// Elements from plain values. Text from event files enters the page here and only as text nodes: no markup is ever parsed.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Properties: `class`, `on` (event listeners), `style` (custom properties and rules), and plain attributes;
 * `true` sets an empty attribute, `false`, `null` and `undefined` set none.
 */
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An icon: one path in a 16 x 16 box, drawn in the colour of the text. */
export function icon(path) {
  const shape = fill(document.createElementNS(SVG, "path"), { d: path, fill: "currentColor" }, []);
  const properties = { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" };
  return fill(document.createElementNS(SVG, "svg"), properties, [shape]);
}

/** Replaces all children of a node. */
export function replace(node, ...children) {
  node.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return node;
}

function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (key === "style") {
      for (const [rule, setting] of Object.entries(value)) node.style.setProperty(rule, setting);
    } else if (value === true) {
      node.setAttribute(key, "");
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(key, String(value));
    }
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
