// The dialog: a face in its photo

const FEW = 4; // more faces than these hide each other's labels
const NO_PHOTO = "There is no separate photo to open for this face.";
const NO_VIDEO = "Browsers cannot play this video. Label it with --annotate, and a copy is shown here.";
const LOST = "The photo could not be shown: it or this page was moved, or this browser cannot read it. Here is the face.";
const CHANGED = "The photo has another shape than when it was labelled, so the boxes are left out.";

let shown = null; // the face in the dialog
let place = 0; // the index in view from which previous and next count; -1: before the first
let opener = null; // the key frame that was opened; null: a crop of the gallery

function openFace(index, face = view[index], time = null, key = null) {
  [place, opener] = [index, key];
  show(face, time);
  if (!$("dialog").open) $("dialog").showModal();
}

function show(face, time = null) {
  const { image } = face;
  shown = face;
  $("position").textContent = view[place] === face ? t("{0} of {1}", number(place + 1), number(view.length)) : "";
  $("previous").ariaDisabled = String(place <= 0);
  $("next").ariaDisabled = String(place >= view.length - 1);
  $("title").textContent = `${label(face.expression)} ${percent(face.confidence / WHOLE)}`;
  style($("title"), { colour: colours[face.expression] });
  tell("doubt", face.review && t("Needs review: the model is less than {0} sure.", percent(run.min_confidence)));
  $("probabilities").replaceChildren(...face.probabilities.map((probability, index) => {
    const part = (className, textContent) => make("span", { className, textContent });
    const row = make("li", { className: index === face.expression ? "row best" : "row" },
      part("name", label(index)), part("track", ""), part("share", percent(probability / WHOLE)));
    return style(row, { colour: colours[index], all: 0, now: probability / WHOLE });
  }));
  $("file").textContent = image.name;
  $("file").href = image.href;
  if (!image.href || !/^(https?|file):$/.test($("file").protocol)) $("file").removeAttribute("href");
  $("number").textContent = `· ${t("face {0}", face.number)}`;
  showOthers(face);
  if (face.image.bands) showVideo(face, time ?? longest(face).start);
  else showPhoto(face);
}

/** The longest stretch in which a track shows what it shows in all. */
function longest({ image, number, expression }) {
  const own = image.bands.filter((band) => band.track === number);
  const same = own.filter((band) => band.expression === expression);
  return (same.length ? same : own).reduce((most, band) => (band.end - band.start > most.end - most.start ? band : most));
}

function showVideo(face, time) {
  const { image } = face;
  const note = (text) => make("p", { className: "missing", textContent: t(text) });
  const instead = (text) => $("stage").replaceChildren(crop(face), note(text));
  if (!image.href) return instead(NO_VIDEO);
  const video = make("video", { src: `${image.href}#t=${time}`, controls: true, preload: "auto", muted: true });
  video.addEventListener("error", () => video.isConnected && instead(LOST));
  $("stage").replaceChildren(make("div", { className: "photo" }, video));
}

function showOthers({ image }) {
  $("others").hidden = image.faces.length < 2;
  $("others").firstElementChild.textContent = t(image.bands ? "In the same video" : "In the same photo");
  $("strip").replaceChildren(...(image.faces.length < 2 ? [] : image.faces).map((other) => {
    const button = make("button", { type: "button" }, crop(other));
    button.ariaLabel = `${label(other.expression)}, ${t("face {0}", other.number)}`;
    button.ariaCurrent = String(other === shown);
    button.addEventListener("click", () => {
      if (view.includes(other)) place = view.indexOf(other);
      show(other);
      $("strip").children[image.faces.indexOf(other)].focus();
    });
    return style(button, { colour: colours[other.expression] });
  }));
}

function showPhoto(face) {
  const { image } = face;
  const note = (text) => make("p", { className: "missing", textContent: t(text) });
  const instead = (text) => $("stage").replaceChildren(crop(face), note(text));
  if (!image.href) return instead(NO_PHOTO);
  const photo = make("img", { alt: image.name, src: image.href });
  const frame = style(make("div", { className: "photo" }, photo), { width: image.width, height: image.height });
  photo.addEventListener("load", () => {
    if (image.marked) return;
    const stretch = Math.abs(Math.log((photo.naturalWidth * image.height) / (photo.naturalHeight * image.width)));
    if (stretch < 0.03) thinOut(frame.appendChild(boxes(face)));
    else frame.after(note(CHANGED));
  });
  photo.addEventListener("error", () => photo.isConnected && instead(LOST));
  $("stage").replaceChildren(frame);
}

/** The boxes of all faces of a photo, over it; places in percent, so that they keep to it at any size. */
function boxes(face) {
  const { image } = face;
  const across = (x) => `${(100 * x) / image.width}%`;
  const down = (y) => `${(100 * y) / image.height}%`;
  const groups = [...image.faces].sort((a, b) => (a === face) - (b === face)).map((other) => {
    const box = { x: across(other.x), y: down(other.y), width: across(other.width), height: down(other.height) };
    const atRight = other.x > 0.6 * image.width, above = other.y > 0.08 * image.height;
    const words = svg("text", { y: above ? -8 : 16, x: atRight ? 0 : 2, "text-anchor": atRight ? "end" : "start" });
    words.textContent = `${label(other.expression)} ${percent(other.confidence / WHOLE)}`;
    const corner = { x: atRight ? across(other.x + other.width) : box.x, y: box.y, overflow: "visible" };
    const group = svg("g", { class: other === face ? "box current" : "box" },
      svg("rect", { ...box, class: "halo" }), svg("rect", { ...box, class: "line" }), svg("svg", corner, words));
    return style(group, { colour: colours[other.expression] });
  });
  return svg("svg", { class: "overlay", "aria-hidden": "true" }, ...groups);
}

/** In a crowd, leave out the labels that would cover other faces. */
function thinOut(overlay) {
  const width = (element) => element.getBoundingClientRect().width;
  if (overlay.children.length <= FEW) return;
  for (const box of overlay.children)
    box.classList.toggle("tight", width(box.querySelector("text")) > 1.2 * width(box.querySelector("rect")));
}

function step(by) {
  if (view[place + by]) openFace(place + by);
}
