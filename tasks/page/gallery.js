// The gallery: only the crops in the window, and the one that has or would get the focus, are in the document

const CELL = 88, GAP = 10, CAPTION = 34; // px: a crop's least width, between crops, under a crop
const SPARE_ROWS = 3; // drawn above and below the window, so that scrolling finds them there

let active = 0; // index in view of the one crop that Tab reaches
let width = 0, columns = 1, cell = CELL, drawn = new Map(); // index in view -> li

function startGallery() {
  const focused = $("gallery").contains(document.activeElement);
  $("gallery").replaceChildren();
  drawn.clear();
  width = $("gallery").clientWidth;
  columns = Math.max(1, Math.floor((width + GAP) / (CELL + GAP)));
  cell = Math.floor((width - GAP * (columns - 1)) / columns);
  style($("gallery"), { cell: `${cell}px`, caption: `${CAPTION}px` });
  $("gallery").style.height = `${Math.ceil(view.length / columns) * rowHeight()}px`;
  drawGallery();
  if (focused && view.length) go(active);
}

const rowHeight = () => cell + CAPTION + GAP;

function drawGallery() {
  const top = -$("gallery").getBoundingClientRect().top;
  const row = (y) => Math.floor(y / rowHeight());
  const first = Math.max(0, row(top) - SPARE_ROWS) * columns;
  const last = Math.min(view.length, (row(top + innerHeight) + 1 + SPARE_ROWS) * columns);
  const wanted = new Set(view.length ? [active] : []);
  for (let index = first; index < last; index += 1) wanted.add(index);
  for (const [index, item] of drawn) if (!wanted.has(index)) (item.remove(), drawn.delete(index));
  let before = null;
  for (const index of [...wanted].sort((a, b) => b - a)) {
    if (!drawn.has(index)) drawn.set(index, $("gallery").insertBefore(makeCrop(index), before));
    before = drawn.get(index);
    before.firstChild.tabIndex = index === active ? 0 : -1;
  }
}

function makeCrop(index) {
  const face = view[index];
  const texts = [label(face.expression), percent(face.confidence / WHOLE)];
  const button = make("button", { type: "button", className: face.review ? "crop review" : "crop", title: face.image.name },
    crop(face), make("span", { className: "sure" }), ...texts.map((textContent) => make("span", { textContent })));
  const doubt = face.review ? [t("Needs review")] : [];
  button.ariaLabel = [...texts, ...doubt, face.image.name, t("face {0}", face.number)].join(", ");
  button.addEventListener("focus", () => (active = index));
  button.addEventListener("click", () => openFace(index));
  const item = make("li", { ariaSetSize: view.length, ariaPosInSet: index + 1 }, button);
  return style(item, {
    x: `${Math.round(((index % columns) * (width - cell)) / Math.max(1, columns - 1))}px`,
    y: `${Math.floor(index / columns) * rowHeight()}px`,
    colour: colours[face.expression], sure: face.confidence / WHOLE,
  });
}

/** After scrolling: draw what came into the window; Tab enters the gallery where the reader is. */
function follow() {
  const row = Math.max(0, Math.ceil(-$("gallery").getBoundingClientRect().top / rowHeight()));
  if (!$("gallery").contains(document.activeElement)) active = Math.min(row * columns, Math.max(0, view.length - 1));
  drawGallery();
}

/** Put the focus on a crop, drawn or not. */
function go(index) {
  active = Math.max(0, Math.min(view.length - 1, index));
  drawGallery();
  drawn.get(active).firstChild.focus({ preventScroll: true });
  drawn.get(active).scrollIntoView({ block: "nearest" });
}

function moveInGallery(event) {
  const page = columns * Math.max(1, Math.floor(innerHeight / rowHeight()) - 1);
  const steps = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
    PageUp: -page, PageDown: page, Home: -view.length, End: view.length,
  };
  if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  go(active + steps[event.key]);
}
