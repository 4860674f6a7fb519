// All text goes onto the page as text, never as HTML.
const study = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const answers = [];
let participant = 0, order = [], place = 0, seen = 0, since = null, decided = null, saved = true;

function make(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

// Seconds count only while the page can be seen.
function start() { seen = 0; decided = null; since = document.visibilityState === "visible" ? performance.now() : null; }
function passed() { return seen + (since === null ? 0 : performance.now() - since); }
function pause() { if (since !== null) { seen += performance.now() - since; since = null; } }
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") pause();
  else if (!at("screen").hidden && since === null) since = performance.now();
});

function panel(given, heading) {
  const box = make("div", "", { class: "panel" });
  if (heading || given.heading) box.append(make("h3", [heading, given.heading].filter(Boolean).join(": ")));
  if (given.image) {
    const image = make("img", "", { alt: given.alt || "A picture without a description" });
    image.src = study.images[given.image];
    box.append(image);
  }
  for (const line of given.lines) box.append(make("p", line));
  return box;
}

function options(question) {
  return question.kind === "side" ? ["A", "B", ...question.options] : question.options;
}

function ask(question, number, only) {
  const box = make("fieldset", "", { "data-name": question.name, "data-kind": question.kind });
  box.append(make("legend", question.text));
  if (question.kind === "remark") {
    const id = "q" + number;
    const label = make("label", "You may leave this out. Write nothing that tells who you or anybody else is.", { for: id, class: "faint" });
    box.append(label, make("textarea", "", { id, maxlength: 300 }));
    return box;
  }
  const list = make("div", "", { class: "options" + (question.kind === "scale" || question.kind === "side" ? " row" : "") });
  const first = question.kind === "scale" ? 1 : 0;
  options(question).forEach((text, i) => {
    const label = make("label");
    const type = question.kind === "several" ? "checkbox" : "radio";
    label.append(make("input", "", { type, name: "q" + number, value: String(i + first) }), make("span", text));
    if (only && i < 9) label.append(make("kbd", String(i + 1), { "aria-hidden": "true" }));
    list.append(label);
  });
  box.append(list);
  return box;
}

function show() {
  const [code, flipped] = order[place], given = study.stimuli[code];
  const form = at("asked");
  form.replaceChildren();
  at("count").textContent = `Screen ${place + 1} of ${order.length}`;
  at("done").max = order.length;
  at("done").value = place;
  at("head").textContent = `Screen ${place + 1}`;
  const shown = make("div", "", { class: "shown" });
  for (const one of given.panels) shown.append(panel(one, ""));
  const sides = flipped ? [...given.sides].reverse() : given.sides;
  sides.forEach((one, i) => shown.append(panel(one, "AB"[i])));
  if (shown.childElementCount) form.append(shown);
  const count = given.questions.filter((q) => q.kind !== "remark").length;
  given.questions.forEach((q, i) => form.append(ask(q, i, count === 1 && q.kind !== "remark")));
  form.append(make("p", "", { class: "problem", role: "alert", id: "missing" }));
  form.append(make("button", place + 1 < order.length ? "Next" : "Finish", { type: "submit" }));
  const stop = make("button", "Stop here", { type: "button", class: "quiet" });
  stop.addEventListener("click", finish);
  form.append(stop);
  at("head").focus();
  start();
}

// What was missing is no longer, once it is answered; what counts is when the first question was last answered.
function touched(box) {
  box.removeAttribute("aria-invalid");
  at("missing").textContent = "";
  if (box === closed()[0]) decided = passed();
}
at("asked").addEventListener("change", (event) => touched(event.target.closest("fieldset")));

function closed() { return [...at("asked").querySelectorAll("fieldset")].filter((b) => b.dataset.kind !== "remark"); }

function answered(box) {
  if (box.dataset.kind === "remark") return box.querySelector("textarea").value.trim() || undefined;
  const chosen = [...box.querySelectorAll("input:checked")].map((i) => Number(i.value));
  if (box.dataset.kind === "several") return chosen;
  return chosen.length ? chosen[0] : null;
}

at("asked").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = {}, boxes = [...at("asked").querySelectorAll("fieldset")];
  let missing = null;
  for (const box of boxes) {
    const value = answered(box);
    if (value === null) { missing = missing || box; box.setAttribute("aria-invalid", "true"); }
    else { box.removeAttribute("aria-invalid"); if (value !== undefined) given[box.dataset.name] = value; }
  }
  if (missing) {
    at("missing").textContent = "Please answer each question.";
    missing.querySelector("input").focus();
    return;
  }
  pause();
  const seconds = Math.max(Math.round(decided === null ? seen : decided) / 1000, 0.001);
  answers.push({ stimulus: order[place][0], position: place, seconds, given });
  saved = false;
  place += 1;
  if (place < order.length) show(); else finish();
});

function finish() {
  since = null;
  at("screen").hidden = true;
  at("end").hidden = false;
  at("left").textContent = `You answered ${answers.length} of ${order.length} screens.`;
  const file = { format: "pellucid-answers", version: 1, study: study.study, participant, answers };
  const text = JSON.stringify(file, null, 1);
  at("saved").textContent = text;
  at("save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  at("save").download = `answers-${study.study.slice(0, 8)}-${participant}.json`;
  at("end").querySelector("h2").focus();
}

at("save").addEventListener("click", () => { saved = true; });
addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const number = at("who").valueAsNumber;
  if (!Number.isInteger(number) || number < 1 || number > study.plan.length) {
    at("wrong").textContent = `Please enter a whole number from 1 to ${study.plan.length}.`;
    at("who").setAttribute("aria-invalid", "true");
    at("who").focus();
    return;
  }
  participant = number;
  order = study.plan[number - 1];
  at("start").hidden = true;
  at("screen").hidden = false;
  saved = false;
  show();
});

// A number key chooses where one question is asked; Enter goes on.
addEventListener("keydown", (event) => {
  if (at("screen").hidden || event.target.tagName === "TEXTAREA" || event.ctrlKey || event.metaKey || event.altKey) return;
  const boxes = closed();
  if (boxes.length === 1 && /^[1-9]$/.test(event.key)) {
    const input = boxes[0].querySelectorAll("input")[Number(event.key) - 1];
    if (input) { input.type === "checkbox" ? (input.checked = !input.checked) : (input.checked = true); touched(boxes[0]); input.focus(); event.preventDefault(); }
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    at("asked").requestSubmit();
  }
});
