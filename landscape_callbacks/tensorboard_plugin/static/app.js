// The page: a model of what is known and chosen, and the views that show it.

import { element, replace } from "./dom.js";
import { Model } from "./model.js";
import { onThemeChange, refreshTheme } from "./plot/theme.js";
import { curvatureSection } from "./views/curvature.js";
import { densitySection } from "./views/density.js";
import { diagnosisSection } from "./views/diagnosis.js";
import { emptyPage } from "./views/empty_state.js";
import { planesSection } from "./views/planes.js";
import { Problems } from "./views/problems.js";
import { metricsSection } from "./views/metrics.js";
import { RunList } from "./views/run_list.js";
import { slicesSection } from "./views/slices.js";
import { Timeline } from "./views/timeline.js";

const POLL_MS = 5000;

/** Shows the data of a source in a node of the page and, when the source is live, keeps up with it. */
export async function start(host, source) {
  const model = new Model(source);
  const runList = new RunList(model);
  const timeline = new Timeline(model);
  const problems = new Problems();
  const sections = [
    diagnosisSection(),
    metricsSection(),
    curvatureSection(),
    slicesSection(),
    densitySection(),
    planesSection(),
  ];
  const views = [timeline, ...sections];
  const content = element(
    "main",
    {},
    timeline.element,
    problems.element,
    sections.map((section) => section.element),
  );
  const page = element("div", { class: "page" }, runList.element, content);
  const empty = element("div", { class: "page-empty" }, problems.element, emptyPage());
  replace(host, element("p", { class: "loading" }, "Reading the runs …"));

  model.onChange(() => {
    if (!model.loaded) return;
    const shown = model.runs.size ? page : empty;
    if (host.firstChild !== shown) {
      (shown === page ? content : empty).insertBefore(
        problems.element,
        shown === page ? sections[0].element : empty.firstChild,
      );
      replace(host, shown);
    }
    problems.update(model);
    if (shown === empty) return;
    runList.update(model);
    for (const view of views) view.update(model);
    document.documentElement.dataset.step = String(model.step);
  });
  onThemeChange(() => model.changed());
  refreshTheme();
  await model.refresh();
  if (source.live) keepUp(model);
  return model;
}

/** Asks for what is new while the page is looked at; a server that takes long is asked less often. */
function keepUp(model) {
  let timer = null;
  const refresh = async () => {
    clearTimeout(timer);
    const started = performance.now();
    if (!document.hidden) await model.refresh();
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.max(POLL_MS, 10 * (performance.now() - started)));
  };
  timer = setTimeout(refresh, POLL_MS);
  document.addEventListener("visibilitychange", refresh);
}
