// What went wrong while reading, in sentences at the top of the page.

import { element, replace } from "../dom.js";

export class Problems {
  constructor() {
    this.element = element("div", { class: "problems", role: "status" });
    this.shown = "";
  }

  update(model) {
    const sentences = model.problem ? [model.problem] : [];
    for (const run of model.selected()) {
      if (run.problem) sentences.push(`Run ${run.name}: ${run.problem}`);
      const broken = model.broken(run);
      if (broken)
        sentences.push(
          `Run ${run.name}: ${broken} ${broken === 1 ? "record" : "records"} could not be read and ${broken === 1 ? "is" : "are"} left out.`,
        );
    }
    const content = sentences.join("\n");
    if (content === this.shown) return;
    this.shown = content;
    replace(
      this.element,
      sentences.map((sentence) => element("p", {}, sentence)),
    );
  }
}
