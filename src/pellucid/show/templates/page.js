"use strict";
// What is folded stands open on paper, but for the engineer's figures on a page for others.
addEventListener("beforeprint", () => {
  for (const d of document.querySelectorAll("details:not([open]):not(.figures)")) { d.open = true; d.dataset.printed = "1"; }
});
addEventListener("afterprint", () => {
  for (const d of document.querySelectorAll("details[data-printed]")) { d.open = false; delete d.dataset.printed; }
});
