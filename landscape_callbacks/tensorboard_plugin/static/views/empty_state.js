// What to say where there is nothing to show: which monitor to add.

import { element } from "../dom.js";

const WITHIN_THE_BUDGET =
  "LandscapeMonitor has it, unless it is switched off there, as far as its budget pays for it: more comes with a larger " +
  "max_overhead (None: no budget).";

const MONITORS = {
  verdict: [
    "SaddlePointMonitor",
    "No diagnosis was recorded. One is made where the loss stops falling or blows up: at a saddle, at the noise floor.",
  ],
  eigenvalues: [
    "HessianEigenvalueMonitor",
    "No curvature was recorded. This monitor follows the extreme Hessian eigenvalues and the stability limit.",
  ],
  slice: [
    "LossSliceMonitor",
    "No slices were recorded. This monitor draws the loss along directions such as the gradient.",
  ],
  density: [
    "HessianEigenvalueMonitor(density=True)",
    "No spectral density was recorded. This monitor estimates it when asked to.",
    'In LandscapeMonitor: eigenvalues={"density": True}.',
  ],
  plane: [
    "LossPlaneMonitor",
    "No planes were recorded. This monitor draws the loss over two directions, with the path of training.",
  ],
};

/** The empty state of a section. */
export function emptyState(kind) {
  if (!Object.hasOwn(MONITORS, kind))
    return element("div", { class: "empty" }, element("p", {}, "No metric is shown."));
  const [monitor, sentence, within = WITHIN_THE_BUDGET] = MONITORS[kind];
  return element(
    "div",
    { class: "empty" },
    element("p", {}, sentence),
    element(
      "p",
      {},
      `${within} By itself: `,
      element("code", {}, `Trainer(callbacks=[${call(monitor)}])`),
    ),
  );
}

/** The empty state of the whole page. */
export function emptyPage() {
  return element(
    "div",
    { class: "empty page" },
    element("h2", {}, "No landscape data yet"),
    element("p", {}, "Add one callback to your trainer, and this page fills while the model trains:"),
    element(
      "pre",
      {},
      "from landscape_callbacks import LandscapeMonitor\n\ntrainer = Trainer(callbacks=[LandscapeMonitor()])",
    ),
    element(
      "p",
      {},
      "If a run is training now, its first records appear here within seconds after they are written.",
    ),
  );
}

function call(monitor) {
  return monitor.endsWith(")") ? monitor : `${monitor}()`;
}
