// The live page. The server sends a frame as one message: the length of a JSON text (4 bytes), the text, a JPEG picture. It
// sends the next one, which is the newest by then, when this page has said that the frame is shown.

const PAST = 60; // s that the timeline shows
const GAP = 1; // s without a face that still count as seen
const ROWS = 6; // tracks in the timeline; those seen last ...
const LASTS = 0.5; // ... and for so many s at least: what is taken for a face is gone sooner
const AGAIN = 2000; // ms until a lost connection is tried again
const RESTARTS = 1012; // how a server closes a connection when it ends
const SPEAKS = 3000; // ms between two labels told to a screen reader

const { camera, champion, expressions, colours, portuguese } = JSON.parse($("known").textContent);
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const pen = $("picture").getContext("2d");

function setLanguage(wanted) {
  speak(wanted, 0);
  document.title = `${t("Facial expressions, live")} · ${camera}`;
  $("timeline").ariaLabel = t("Expressions of the faces over the last minute");
  $("probabilities").replaceChildren(...expressions.map((_, index) => {
    const part = (className, textContent) => make("span", { className, textContent });
    const row = make("li", { className: "row" }, part("name", label(index)), part("track", ""), part("share", ""));
    return style(row, { colour: colours[index], all: 0, now: 0 });
  }));
  tell();
  showFace();
  drawTimeline();
}

// ---- The connection

let socket;
let notice = ["Waiting for the camera …"]; // a text and its values; none: nothing to say
let ended = false;

function tell() {
  $("notice").hidden = notice.length === 0;
  $("notice").textContent = notice.length ? t(...notice) : "";
}

function connect() {
  const connection = new WebSocket(new URL("frames", location.href.replace(/^http/, "ws").split("#")[0]));
  connection.binaryType = "arraybuffer";
  connection.addEventListener("open", () => ($("stop").disabled = false));
  connection.addEventListener("message", ({ data }) => {
    if (typeof data !== "string") return receive(data, connection);
    end(...JSON.parse(data));
    connection.close();
  });
  connection.addEventListener("close", ({ code }) => {
    if (ended) return;
    if (code === RESTARTS) return end("ferflow was stopped. `ferflow live` starts it again.");
    stand("The connection is lost; trying again …");
    setTimeout(connect, AGAIN);
  });
  socket = connection;
}

/** Say why the picture stands still, and let it be seen. */
function stand(...words) {
  notice = words;
  tell();
  document.body.classList.add("still");
  $("stop").disabled = true;
  for (const id of ["rate", "delay", "looked"]) $(id).textContent = "–";
}

function end(...words) {
  ended = true;
  stand(...words);
}

async function receive(data, connection) {
  const length = new DataView(data).getUint32(0);
  const news = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  requestAnimationFrame(() => { // a hidden tab does this later, and asks for no frames until then
    show(news, picture);
    picture.close();
    connection.send("shown");
  });
}

// ---- The frame

let frame = { faces: [] };
let chosen = null; // the track that the user wants to see; null: the largest face
const shown = []; // when the frames of the last seconds were shown, ms

function show(news, picture) {
  news.faces = news.faces.map(([track, x, y, width, height, ...probabilities]) => {
    const confidence = Math.max(...probabilities);
    return { track, x, y, width, height, probabilities, confidence, expression: probabilities.indexOf(confidence) };
  });
  frame = news;
  if (notice.length && !ended) {
    tell((notice = []));
    document.body.classList.remove("still");
  }
  drawPicture(picture);
  remember();
  showFace();
  showMeters();
  $("snapshot").disabled = false;
}

/** The face that the bars are of. */
const current = () => frame.faces.find((face) => face.track === chosen)
  ?? frame.faces.reduce((best, face) => (face.width * face.height > (best?.width * best?.height || 0) ? face : best), null);

function drawPicture(picture) {
  const { canvas } = pen;
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
    style(canvas, { shape: picture.width / picture.height });
  }
  pen.drawImage(picture, 0, 0);
  const mine = current();
  for (const face of [...frame.faces].sort((a, b) => (a === mine) - (b === mine))) drawBox(face, face === mine);
  canvas.ariaLabel = t("The picture; faces: {0}", frame.faces.length);
}

function drawBox({ x, y, width, height, expression, confidence }, isCurrent) {
  const unit = Math.max(pen.canvas.width, pen.canvas.height) / 640; // px of the picture for about one on the screen
  const rectangle = (colour, thickness) => {
    Object.assign(pen, { strokeStyle: colour, lineWidth: thickness * unit });
    pen.strokeRect(x, y, width, height);
  };
  rectangle(isCurrent ? "#fffe" : "#0007", isCurrent ? 6 : 4);
  rectangle(colours[expression], isCurrent ? 3.5 : 2);
  const words = `${label(expression)} ${percent(confidence / WHOLE)}`;
  Object.assign(pen, {
    font: `600 ${15 * unit}px system-ui, sans-serif`, lineWidth: 3.5 * unit, lineJoin: "round", strokeStyle: "#000c",
    fillStyle: "#fff",
  });
  const across = Math.max(2 * unit, Math.min(x, pen.canvas.width - pen.measureText(words).width - 2 * unit));
  const down = y > 24 * unit ? y - 8 * unit : y + 20 * unit;
  pen.strokeText(words, across, down);
  pen.fillText(words, across, down);
}

let spoken = 0; // ms, when a label was last told to a screen reader

function showFace() {
  const face = current();
  const words = face ? label(face.expression) : frame.number ? t("No face") : "";
  $("title").textContent = face ? `${words} ${percent(face.confidence / WHOLE)}` : words;
  style($("title"), { colour: face ? colours[face.expression] : "transparent" });
  [...$("probabilities").children].forEach((row, index) => {
    const share = face ? face.probabilities[index] / WHOLE : 0;
    row.classList.toggle("best", face?.expression === index);
    row.querySelector(".share").textContent = face ? percent(share) : "";
    style(row, { now: share });
  });
  if ($("spoken").textContent !== words && performance.now() - spoken > SPEAKS) {
    $("spoken").textContent = words;
    spoken = performance.now();
  }
  showFaces(face);
}

/** A button a face; they stay the same as long as the tracks do, so that the focus does. */
function showFaces(mine) {
  const tracks = frame.faces.map((face) => face.track).sort((a, b) => a - b);
  const group = $("faces");
  group.hidden = tracks.length < 2;
  if ([...group.children].map((button) => button.value).join() !== tracks.join())
    group.replaceChildren(...tracks.map((track) => {
      const button = make("button", { type: "button", value: track });
      button.addEventListener("click", () => choose(track));
      return button;
    }));
  for (const button of group.children) {
    const face = frame.faces.find(({ track }) => track === Number(button.value));
    const words = `${face.track} ${label(face.expression)}`;
    if (button.textContent !== words) button.textContent = words;
    button.ariaPressed = String(face === mine);
    style(button, { colour: colours[face.expression] });
  }
}

function choose(track) {
  chosen = track;
  showFace();
}

function showMeters() {
  const now = performance.now();
  shown.push(now);
  while (now - shown[0] > 2000) shown.shift();
  if (now - (showMeters.last ?? -Infinity) < 500) return; // figures that can be read
  showMeters.last = now;
  $("rate").textContent = shown.length > 1 ? number((1000 * (shown.length - 1)) / (now - shown[0])) : "–";
  $("delay").textContent = frame.delay === null ? "–" : t("{0} ms", number(frame.delay));
  $("looked").textContent = number(frame.rate);
  $("dropped").textContent = number(frame.dropped);
}

// ---- The last minute: for each track its runs of one expression

const past = new Map(); // track: [{ expression, from, to }, ...], s

function remember() {
  for (const { track, expression } of frame.faces) {
    if (!past.has(track)) past.set(track, []);
    const runs = past.get(track);
    const last = runs.at(-1);
    if (last && frame.time - last.to < GAP) last.to = frame.time; // without a seam
    if (last?.expression !== expression || last.to !== frame.time) runs.push({ expression, from: frame.time, to: frame.time });
  }
  for (const [track, runs] of past) {
    while (runs.length && runs[0].to < frame.time - PAST) runs.shift();
    if (!runs.length) past.delete(track);
  }
}

function drawTimeline() {
  const canvas = $("timeline");
  const ink = getComputedStyle(canvas);
  const [line, soft] = ["--line", "--soft"].map((name) => ink.getPropertyValue(name));
  const lasting = [...past].filter(([, runs]) => runs.at(-1).to - runs[0].from >= LASTS);
  const rows = lasting.sort(([, a], [, b]) => b.at(-1).to - a.at(-1).to).slice(0, ROWS).sort(([a], [b]) => a - b);
  const [gutter, band, gap, axis] = [32, 26, 6, 24];
  const width = canvas.clientWidth, height = Math.max(1, rows.length) * (band + gap) + axis;
  const density = devicePixelRatio;
  Object.assign(canvas, { width: width * density, height: height * density });
  canvas.style.height = `${height}px`;
  const brush = canvas.getContext("2d");
  brush.scale(density, density);
  brush.textBaseline = "middle";
  const at = (time) => gutter + (width - gutter) * Math.max(0, 1 - ((frame.time ?? 0) - time) / PAST);
  for (let row = 0; row < Math.max(1, rows.length); row++) {
    const [track, runs] = rows[row] ?? ["", []];
    const top = row * (band + gap);
    brush.fillStyle = line;
    brush.fillRect(gutter, top, width - gutter, band);
    Object.assign(brush, { fillStyle: soft, font: "600 14px system-ui, sans-serif", textAlign: "start" });
    brush.fillText(track, 4, top + band / 2);
    for (const { expression, from, to } of runs) drawRun(brush, expression, at(from), at(to), top, band);
  }
  Object.assign(brush, { fillStyle: soft, font: "13px system-ui, sans-serif" });
  for (let ago = 0; ago <= PAST; ago += 15) {
    brush.textAlign = ago === 0 ? "end" : ago === PAST ? "start" : "center";
    brush.fillText(ago ? `−${ago} s` : t("now"), at((frame.time ?? 0) - ago), height - axis / 2);
  }
}

function drawRun(brush, expression, left, right, top, height) {
  brush.fillStyle = colours[expression];
  brush.fillRect(left, top, Math.max(1, right - left), height);
  Object.assign(brush, {
    font: "600 13px system-ui, sans-serif", textAlign: "start", fillStyle: "#fff", strokeStyle: "#000a", lineWidth: 3,
    lineJoin: "round",
  });
  if (brush.measureText(label(expression)).width + 16 > right - left) return;
  brush.strokeText(label(expression), left + 8, top + height / 2);
  brush.fillText(label(expression), left + 8, top + height / 2);
}

// ---- What the user does

/** The picture as it is seen, boxes and all, into the browser's downloads. */
function snapshot() {
  pen.canvas.toBlob((blob) => {
    const stamp = new Date(Date.now() - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19).replaceAll(":", "-");
    const link = make("a", { href: URL.createObjectURL(blob), download: `ferflow-${stamp}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

/** Choose the face before or after the one that is shown, from left to right. */
function step(by) {
  const order = [...frame.faces].sort((a, b) => a.x - b.x);
  const next = order[order.indexOf(current()) + by];
  if (next) choose(next.track);
}

function listen() {
  $("snapshot").addEventListener("click", snapshot);
  $("stop").addEventListener("click", () => socket.send("stop"));
  $("picture").addEventListener("click", ({ offsetX, offsetY }) => {
    const scale = pen.canvas.width / pen.canvas.clientWidth;
    const [x, y] = [offsetX * scale, offsetY * scale];
    const face = frame.faces.find((each) => x >= each.x && x <= each.x + each.width && y >= each.y && y <= each.y + each.height);
    choose(face ? face.track : null);
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
    if (event.key === "Escape") choose(null);
    if (event.key.toLowerCase() === "s" && !event.repeat && !$("snapshot").disabled) snapshot();
  });
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => {
      setLanguage(button.dataset.language);
      history.replaceState(null, "", `#lang=${language}`);
    });
  addEventListener("resize", drawTimeline);
  setInterval(drawTimeline, calm ? 1000 : 200);
}

$("camera").textContent = camera;
$("champion").textContent = champion;
setLanguage(new URLSearchParams(location.hash.slice(1)).get("lang") ?? navigator.language);
listen();
connect();
