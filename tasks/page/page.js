const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase(); // "jose" finds "José"

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Take the JSON out of the page and free its text. */
function take(id) {
  const element = $(id);
  element.remove();
  return JSON.parse(element.textContent);
}

// ---- Data: see report.py for the form

const { run, expressions, colours, portuguese } = take("run"); // English is in page.html and in this file
const images = take("images").map(([name, href, marked, width, height, list, bands]) => {
  const image = { name, folded: fold(name), href, marked, width, height };
  image.faces = list.map(([number, x, y, width, height, review, picture, ...probabilities]) => {
    const confidence = Math.max(...probabilities);
    const expression = probabilities.indexOf(confidence);
    return { image, number, x, y, width, height, review: review === 1, picture, probabilities, confidence, expression };
  });
  if (bands) {
    image.bands = bands.map(([track, expression, start, end, confidence, picture]) =>
      ({ track, expression, start, end, confidence, picture }));
    image.end = Math.max(...image.bands.map((band) => band.end), 0.1);
  }
  return image;
});
const faces = images.flatMap((image) => image.faces);
const videos = images.filter((image) => image.bands);
const crop = (face) => make("img", { src: `data:image/jpeg;base64,${face.picture}`, alt: "", decoding: "sync" });

// ---- State: what the hash of the URL says, so that a view can be kept and sent

const FILTERS = { only: new Set(), least: 0, most: 100, review: false, name: "", sort: "files" };
let state = { ...FILTERS };

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const part = (key, other) => Math.min(100, Math.max(0, Math.round(Number(hash.get(key) ?? other)) || 0));
  const only = (hash.get("only") ?? "").split(",").map((name) => expressions.indexOf(name));
  state = {
    only: new Set(only.filter((index) => index >= 0)),
    least: part("least", 0),
    most: part("most", 100),
    review: hash.get("review") === "1",
    name: hash.get("name") ?? "",
    sort: ["least", "most"].includes(hash.get("sort")) ? hash.get("sort") : "files",
  };
  setLanguage(hash.get("lang") ?? navigator.language);
}

let hashTimer;
function writeHash() {
  const hash = new URLSearchParams({ lang: language });
  if (state.only.size) hash.set("only", [...state.only].map((index) => expressions[index]));
  for (const key of ["least", "most", "name", "sort"]) if (state[key] !== FILTERS[key]) hash.set(key, state[key]);
  if (state.review) hash.set("review", "1");
  clearTimeout(hashTimer); // browsers refuse a hundred changes in a few seconds, as a slider makes
  hashTimer = setTimeout(() => history.replaceState(null, "", `#${hash}`), 150);
}

function setLanguage(wanted) {
  speak(wanted, 2);
  $("name").placeholder = t("File name");
  summarise();
  drawVideos();
}

// ---- Summary

const SOURCES = 3; // named in the heading; a pattern that the shell replaced gives thousands

function summarise() {
  const { images, faces: found, champion, drift } = run;
  const { ok = 0, no_face = 0, ...unread } = images.status;
  const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
  const many = (count) => number(Math.round(count));
  const entry = (name, value, ...notes) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("strong", { textContent: value }),
      ...notes.filter(Boolean).map((textContent) => make("span", { textContent }))));
  $("totals").replaceChildren(
    entry(t(images.videos ? "Files" : "Images"), many(images.total)), entry(t("Faces"), many(found.total)),
    entry(t("Need review"), many(found.review)), entry(t("Could not be read"), many(sum(unread))));

  const { test_accuracy: accuracy } = champion;
  const { psi } = drift;
  const reading = psi < 0.1 ? "stable" : psi <= 0.25 ? "moderate" : "large";
  const outcomes = Object.entries(images.status).map(([status, count]) =>
    `${many(count)} ${t({ ok: "with faces", no_face: "without a face" }[status] ?? status.replaceAll("_", " "))}`);
  $("facts").replaceChildren(
    entry(t("Champion"), champion.version, t("trained on {0}", champion.trained_on),
      accuracy != null && t("{0}% of test faces right", number(Math.round(accuracy * 1000) / 10))),
    entry(t("Drift (PSI)"), psi === null ? "–" : `${number(psi)} · ${t(reading)}`,
      drift.drifted && t("beyond the limits"), t(psi === null ? "too few faces to tell" : "against {0}", t(drift.against))),
    entry(t("Speed"),
      !images.labelled ? t("nothing new to label")
        : images.videos ? t("{0} s", number(run.seconds)) : t("{0} images a second", number(run.images_per_second)),
      images.labelled > 0 && t("{0} labelled in {1} s", many(images.labelled), number(run.seconds)),
      images.reused > 0 && t("{0} kept from before", many(images.reused))),
    found.total === 0 ? ""
      : entry(t("Mean confidence"), percent(found.mean_confidence), t("review under {0}", percent(run.min_confidence)),
        drift.champion_mean_confidence != null && t("{0} on the champion's val", percent(drift.champion_mean_confidence))),
    outcomes.length ? entry(t("Outcome"), ...outcomes) : "");

  const finished = new Date(run.finished).toLocaleString(language, { dateStyle: "long", timeStyle: "short" });
  const more = run.source.length > SOURCES ? `, … (${number(run.source.length)})` : "";
  const source = run.source.slice(0, SOURCES).join(", ") + more;
  $("source").textContent = source;
  $("when").textContent = ` · ${finished}`;
  $("version").textContent = `ferflow ${run.ferflow}`;
  document.title = `${t("Facial expressions")} · ${source}`;
  tell("pending", !run.complete
    && t("Still to be labelled: {0}. The same command continues where it stopped.", many(images.pending)));
  tell("fewer", faces.length < found.total
    && t("This page holds {0} of {1} faces; the tables beside it hold all.", many(faces.length), many(found.total)));
  tell("nothing", faces.length === 0 && t(
    images.total === 0 ? "There was nothing to label."
      : run.complete ? "No faces were found. Small, turned or covered faces may be missed."
        : "The faces will be shown here as soon as there are some."));
  $("explore").hidden = faces.length === 0;
}

/** Show a text, or hide its element if there is nothing to say. */
function tell(id, text) {
  $(id).hidden = !text;
  $(id).textContent = text || "";
}

// ---- Filters

/** Whether a face passes every filter but the one by expression. */
function passes(face, name) {
  return face.confidence >= state.least * 100 && face.confidence <= state.most * 100
    && (!state.review || face.review) && face.image.folded.includes(name);
}

let view = []; // the faces to show, in their order
let counts = []; // of each expression, what the other filters leave

function apply() {
  const name = fold(state.name.trim());
  const passed = faces.filter((face) => passes(face, name));
  counts = expressions.map(() => 0);
  for (const face of passed) counts[face.expression] += 1;
  view = state.only.size ? passed.filter((face) => state.only.has(face.expression)) : passed;
  if (state.sort !== "files") view.sort((a, b) => (state.sort === "least" ? 1 : -1) * (a.confidence - b.confidence));
  showFilters();
  drawChart();
  active = 0;
  startGallery();
}

const narrowed = () => state.least > 0 || state.most < 100 || state.review || state.name.trim() !== "";

function showFilters() {
  for (const key of ["least", "most", "name", "sort"]) if ($(key).value !== String(state[key])) $(key).value = state[key];
  $("review").checked = state.review;
  style($("least").parentElement, { least: state.least / 100, most: state.most / 100 });
  $("least").classList.toggle("above", state.least > 50); // where both thumbs meet, the one that can still move is on top
  for (const key of ["least", "most"]) $(key).ariaValueText = percent(state[key] / 100);
  $("range").textContent = `${$("least").ariaValueText} – ${$("most").ariaValueText}`;
  $("clear").hidden = !narrowed() && state.only.size === 0;
  $("none").hidden = view.length > 0;
  $("count").textContent = view.length === faces.length ? t("Faces: {0}", number(faces.length))
    : t("Faces: {0} of {1}", number(view.length), number(faces.length));
}

/** A row of the chart is a switch: its expression and no other, or with others that are on. */
function drawChart() {
  const totals = expressions.map((name) => run.faces.expressions[name] ?? 0);
  const now = narrowed() ? counts : totals;
  const longest = Math.max(1, ...totals);
  const sum = Math.max(1, now.reduce((total, count) => total + count, 0));
  if (!$("chart").childElementCount) $("chart").append(...expressions.map(makeChartRow));
  [...$("chart").children].forEach((row, index) => {
    style(row, { all: totals[index] / longest, now: now[index] / longest });
    row.ariaPressed = String(state.only.has(index));
    const texts = [label(index), number(now[index]), percent(now[index] / sum)];
    [".name", ".number", ".share"].forEach((part, place) => (row.querySelector(part).textContent = texts[place]));
  });
}

function makeChartRow(_, index) {
  const part = (className) => make("span", { className });
  const row = make("button", { type: "button", className: "row" }, ...["name", "track", "number", "share"].map(part));
  row.addEventListener("click", () => {
    const only = new Set(state.only);
    if (!only.delete(index)) only.add(index);
    change({ only });
  });
  return style(row, { colour: colours[index] });
}

/** Change the filters as the user asks; the results start anew, at their top. */
function change(changes) {
  state = { ...state, ...changes };
  apply();
  writeHash();
  if ($("results").getBoundingClientRect().top < 0) $("results").scrollIntoView();
}

// ---- What the user does

function listen() {
  const on = (id, event, action) => $(id).addEventListener(event, action);
  on("filters", "submit", (event) => event.preventDefault());
  on("least", "input", () => change({ least: Math.min(Number($("least").value), state.most) }));
  on("most", "input", () => change({ most: Math.max(Number($("most").value), state.least) }));
  on("review", "change", () => change({ review: $("review").checked }));
  on("name", "input", () => change({ name: $("name").value }));
  on("sort", "change", () => change({ sort: $("sort").value }));
  on("clear", "click", () => (change({ ...FILTERS, sort: state.sort }), $("results").focus()));
  on("skip", "click", (event) => (event.preventDefault(), $("results").focus()));
  on("gallery", "keydown", moveInGallery);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("close", "click", () => $("dialog").close());
  on("dialog", "click", (event) => event.target === $("dialog") && $("dialog").close()); // beside the sheet
  on("dialog", "close", () => { // told late: it may be open again
    if (!$("dialog").open) opener ? opener.focus() : view.length && go(place);
  });
  on("dialog", "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input[type=search]") || $("dialog").open || !faces.length) return;
    event.preventDefault();
    $("name").focus();
  });
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => (setLanguage(button.dataset.language), apply(), writeHash()));
  addEventListener("hashchange", () => (readHash(), apply()));
  addEventListener("scroll", () => requestAnimationFrame(follow), { passive: true });
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width !== width) startGallery(), drawVideos();
  }).observe($("gallery"));
}

readHash();
apply();
listen();
