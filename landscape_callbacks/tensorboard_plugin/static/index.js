// Where TensorBoard begins: it imports this module into the tab's frame and calls render().

import { start } from "./app.js";
import { HttpSource } from "./data/http_source.js";
import { element } from "./dom.js";

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Landscape";
  await styleSheet("static/style.css");
  await start(document.body, new HttpSource());
}

function styleSheet(address) {
  return new Promise((resolve) => {
    const link = element("link", { rel: "stylesheet", href: address, on: { load: resolve, error: resolve } });
    document.head.append(link);
  });
}
