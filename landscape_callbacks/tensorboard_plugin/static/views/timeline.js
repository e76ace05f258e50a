// The time axis that all views share: play, a slider over all steps, and the verdict episodes along it.

import { element, icon, replace } from "../dom.js";
import { formatStep } from "../format.js";
import { verdictStyle } from "../data/episodes.js";

const PLAY = "M4 2.5v11l9-5.5z";
const PAUSE = "M4 2.5h3v11H4zm5 0h3v11H9z";
const FRAME_MS = 50;
// Playing a whole run takes this many frames, at the slow, normal and fast pace.
const FRAMES = { slow: 600, normal: 240, fast: 80 };

export class Timeline {
  constructor(model) {
    this.model = model;
    this.timer = null;
    this.pace = "normal";
    this.play = element("button", { type: "button", class: "play", on: { click: () => this.toggle() } });
    this.slider = element("input", {
      type: "range",
      min: "0",
      max: "0",
      step: "1",
      value: "0",
      "aria-label": "Step",
      on: { input: () => this.slide() },
    });
    this.number = element("input", {
      type: "number",
      "aria-label": "Go to step",
      on: { change: () => model.goToStep(Number(this.number.value)) },
    });
    this.total = element("span", { class: "total" });
    this.strip = element("div", { class: "strip", "aria-hidden": "true" });
    const paces = Object.keys(FRAMES).map((name) =>
      element("option", { value: name, selected: name === this.pace }, name),
    );
    this.paces = element(
      "select",
      { "aria-label": "Pace", on: { change: () => this.setPace(this.paces.value) } },
      paces,
    );
    this.element = element(
      "div",
      { class: "timeline" },
      this.play,
      this.paces,
      element("div", { class: "track" }, this.slider, this.strip),
      element("label", { class: "step" }, "step ", this.number, this.total),
    );
    this.showPlaying();
    document.addEventListener("keydown", (event) => this.press(event));
  }

  update(model) {
    const { steps } = model;
    const index = model.index();
    this.slider.max = String(Math.max(steps.length - 1, 0));
    this.slider.value = String(index);
    this.slider.disabled = steps.length < 2;
    this.play.disabled = steps.length < 2;
    this.slider.setAttribute("aria-valuetext", `step ${model.step}, ${index + 1} of ${steps.length}`);
    if (document.activeElement !== this.number) this.number.value = String(model.step);
    this.total.textContent = steps.length ? `${formatStep(index + 1)} of ${formatStep(steps.length)}` : "";
    this.showEpisodes(model);
  }

  /** The strip is laid out by the index of a step, as the slider is. */
  showEpisodes(model) {
    const key = `${model.version} ${model.layout}`;
    if (key === this.shown) return;
    this.shown = key;
    const last = Math.max(model.steps.length - 1, 1);
    const place = (step) => (100 * model.nearest(step)) / last;
    const rows = model.selected().filter((run) => model.episodes(run).length);
    replace(
      this.strip,
      rows.map((run) =>
        element(
          "div",
          { class: "strip-row" },
          model.episodes(run).map((episode) =>
            element("span", {
              title: `${episode.verdict}, steps ${episode.start} to ${episode.end}`,
              style: {
                left: `${place(episode.start)}%`,
                width: `${Math.max(place(episode.end) - place(episode.start), 0.4)}%`,
                background: `var(${verdictStyle(episode.verdict).color})`,
              },
            }),
          ),
        ),
      ),
    );
  }

  slide() {
    this.stop();
    this.model.goToIndex(Number(this.slider.value));
  }

  setPace(pace) {
    this.pace = pace;
    if (this.timer) {
      this.stop();
      this.start();
    }
  }

  toggle() {
    if (this.timer) this.stop();
    else this.start();
  }

  start() {
    const { model } = this;
    if (model.index() === model.steps.length - 1) model.goToIndex(0);
    const stride = Math.max(1, Math.round(model.steps.length / FRAMES[this.pace]));
    const wait = Math.max(FRAME_MS, (FRAMES[this.pace] * FRAME_MS) / Math.max(model.steps.length, 40));
    this.timer = setInterval(() => {
      model.goToIndex(model.index() + stride);
      if (model.index() >= model.steps.length - 1) this.stop();
    }, wait);
    this.showPlaying();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.showPlaying();
  }

  showPlaying() {
    this.play.setAttribute("aria-label", this.timer ? "Pause" : "Play");
    this.play.title = this.timer ? "Pause (space)" : "Play (space)";
    replace(this.play, icon(this.timer ? PAUSE : PLAY));
  }

  /** Arrow keys move in time wherever the focus is, except where they have a meaning of their own. */
  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, select, textarea, .surface")) return;
    const stride = event.shiftKey ? 10 : 1;
    const index = this.model.index();
    const target = {
      ArrowLeft: index - stride,
      ArrowRight: index + stride,
      Home: 0,
      End: this.model.steps.length - 1,
    }[event.key];
    if (target !== undefined) {
      this.stop();
      this.model.goToIndex(target);
      event.preventDefault();
    } else if (event.key === " " && !event.target.closest?.("button")) {
      this.toggle();
      event.preventDefault();
    }
  }
}
