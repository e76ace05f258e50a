// Where the report page begins: the same views on records that lie in the page itself.

import { start } from "./app.js";
import { EmbeddedSource } from "./data/embedded_source.js";

start(document.getElementById("landscape"), new EmbeddedSource(document));
