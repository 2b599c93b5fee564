// The videos: for every track a coloured band over time, with key frames under it

const KEY = 52, MARK = 64; // px: from one key frame, and from one mark of the axis, to the next at least
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200]; // s between marks of the axis
const MOST_TICKS = 8;

const clock = (seconds) => {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const rest = [Math.floor(whole / 60) % 60, whole % 60].map((part) => String(part).padStart(2, "0")).join(":");
  return hours ? `${hours}:${rest}` : rest;
};

function drawVideos() {
  $("videos").hidden = !videos.length;
  const open = [...$("timelines").children].map((each) => each.open);
  $("timelines").replaceChildren(...videos.map((video, index) => makeVideo(video, open[index] ?? index === 0)));
}

/** A video that can be folded up; it is drawn when it is opened. */
function makeVideo(video, open) {
  const people = [...new Set(video.bands.map((band) => band.track))];
  const name = make("span", { textContent: video.name });
  const seen = [t("faces until {0}", clock(video.end)), t("Tracks: {0}", number(people.length))];
  const size = make("span", { className: "muted", textContent: ` · ${seen.join(" · ")}` });
  const details = make("details", { className: "video" }, make("summary", {}, make("bdi", {}, name), size));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const axis = make("div");
    details.append(make("div", { className: "axis", ariaHidden: "true" }, make("span"), axis));
    const room = axis.clientWidth;
    axis.append(...makeMarks(video.end, room));
    details.append(...people.map((track) => makeTrack(video, track, room)));
  });
  details.open = open;
  return details;
}

function makeMarks(end, room) {
  const most = Math.max(1, Math.min(MOST_TICKS, room / MARK));
  const step = TICKS.find((each) => end / each <= most) ?? end / most;
  const marks = Array.from({ length: Math.floor(end / step) + 1 }, (_, index) => index * step);
  return marks.map((mark) => style(make("span", { textContent: clock(mark) }), { at: mark / end }));
}

function makeTrack(video, track, room) {
  const bands = video.bands.filter((band) => band.track === track);
  const face = video.faces.find((each) => each.number === track);
  const strip = make("div", { className: "bands" }, ...bands.map((band) =>
    style(make("span", { title: words(band) }), {
      colour: colours[band.expression], from: band.start / video.end, to: band.end / video.end, sure: band.confidence / WHOLE,
    })));
  const keys = make("div", { className: "frames" }, ...keyFrames(video, bands, room).map((band) => makeKey(video, face, band)));
  return make("div", { className: "line" }, makeOwner(face, track), make("div", {}, strip, keys));
}

const words = (band) =>
  `${label(band.expression)} ${percent(band.confidence / WHOLE)}, ${clock(band.start)} – ${clock(band.end)}`;

function makeOwner(face, track) {
  const name = make("span", { textContent: t("Track {0}", number(track)) });
  return face ? make("span", { className: "owner" }, crop(face), name) : make("span", { className: "owner" }, name);
}

/** The longest bands that have a picture and room for it, in the order of time. */
function keyFrames(video, bands, room) {
  const kept = [];
  const middle = ({ start, end }) => Math.max(KEY / 2, Math.min(room - KEY / 2, (room * (start + end)) / 2 / video.end));
  for (const band of [...bands].sort((a, b) => b.end - b.start - (a.end - a.start)))
    if (band.picture && kept.every((other) => Math.abs(middle(other) - middle(band)) >= KEY)) kept.push(band);
  return kept.sort((a, b) => a.start - b.start);
}

function makeKey(video, face, band) {
  const key = make("button", { type: "button", title: words(band) }, crop(band));
  key.ariaLabel = [t("Track {0}", number(band.track)), words(band)].join(", ");
  key.disabled = !face;
  key.addEventListener("click", () => openFace(view.indexOf(face), face, band.start, key));
  return style(key, { colour: colours[band.expression], at: (band.start + band.end) / 2 / video.end });
}
