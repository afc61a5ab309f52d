"use strict";

// One view for all pictures: the picture's point (x, y) lies in the middle of the stage, and one pixel of the picture is
// `scale` CSS pixels large. All pictures have one size. `divider` is the share of the stage that shows the left one.

const find = (id) => document.getElementById(id);
const stage = find("stage"), divider = find("divider"), loupe = find("loupe"), help = find("help");
const pictures = [...find("pictures").children];
const rows = [...document.querySelectorAll("tbody tr")];
const [width, height] = ["width", "height"].map((name) => Number(pictures[0].getAttribute(name)));
const layers = { left: find("left"), right: find("right") };
const choices = { left: find("left-choice"), right: find("right-choice") };
const chosen = { left: 0, right: 1 };
const view = { x: width / 2, y: height / 2, scale: 1, fitted: true, divider: 0.5 };
const pointers = new Map(); // of the pointers that are down: where they are on the stage
let hovered = null; // where the pointer is on the stage, for the loupe
let lastTap = { time: -Infinity, x: 0, y: 0 };
let isDrawn = true;

const LARGEST = 64; // screen pixels for one of the picture
const LOUPE_PX = 168; // side of each half of the loupe

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const fitScale = () => Math.min(stage.clientWidth / width, stage.clientHeight / height);
const exactScale = () => 1 / devicePixelRatio;

// ---- the view

function keepInside() {
  const smallest = Math.min(fitScale(), exactScale()) / 2;
  view.scale = clamp(view.scale, smallest, Math.max(LARGEST * exactScale(), smallest));
  for (const [axis, side, room] of [["x", width, stage.clientWidth], ["y", height, stage.clientHeight]]) {
    const half = room / 2 / view.scale;
    view[axis] = half * 2 >= side ? side / 2 : clamp(view[axis], half, side - half);
  }
}

function fit() {
  view.fitted = true;
  view.scale = fitScale();
  draw();
}

// `at` is the point of the stage that stays where it is; default: the middle.
function zoomTo(scale, at = { x: stage.clientWidth / 2, y: stage.clientHeight / 2 }) {
  const fixed = onPicture(at);
  view.fitted = false;
  view.scale = scale;
  keepInside();
  view.x = fixed.x - (at.x - stage.clientWidth / 2) / view.scale;
  view.y = fixed.y - (at.y - stage.clientHeight / 2) / view.scale;
  draw();
}

function onPicture(at) {
  return {
    x: view.x + (at.x - stage.clientWidth / 2) / view.scale,
    y: view.y + (at.y - stage.clientHeight / 2) / view.scale,
  };
}

function moveDivider(share) {
  view.divider = clamp(share, 0, 1);
  draw();
}

// ---- which pictures

// A picture is on one side only: choosing the one of the other side exchanges them.
function choose(side, number) {
  const other = side === "left" ? "right" : "left";
  if (!(number in pictures)) return;
  if (chosen[other] === number) chosen[other] = chosen[side];
  chosen[side] = number;
  place();
  find("said").textContent = `Left: ${nameOf("left")}. Right: ${nameOf("right")}.`;
}

const nameOf = (side) => pictures[chosen[side]].alt;

function step(side, by) {
  const other = side === "left" ? "right" : "left";
  let number = chosen[side];
  do number = (number + by + pictures.length) % pictures.length;
  while (number === chosen[other] && pictures.length > 2);
  choose(side, number);
}

function place() {
  for (const side of ["left", "right"]) {
    layers[side].replaceChildren(pictures[chosen[side]]);
    choices[side].value = chosen[side];
    find(`${side}-name`).textContent = nameOf(side);
  }
  rows.forEach((row, number) => row.classList.toggle("shown", Object.values(chosen).includes(number)));
  draw();
}

// ---- drawing

function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => {
    isDrawn = true;
    paint();
  });
}

function paint() {
  if (view.fitted) view.scale = fitScale();
  keepInside();
  const whole = (length) => Math.round(length * devicePixelRatio) / devicePixelRatio; // on the grid of the screen
  const left = whole(stage.clientWidth / 2 - view.x * view.scale);
  const top = whole(stage.clientHeight / 2 - view.y * view.scale);
  for (const side of ["left", "right"]) {
    pictures[chosen[side]].style.transform = `translate(${left}px, ${top}px) scale(${view.scale})`;
  }
  const share = `${view.divider * 100}%`;
  // the left one lies over the right one, and hides it also where it is transparent: there are its squares
  layers.left.style.clipPath = `inset(0 calc(100% - ${share}) 0 0)`;
  divider.style.left = share;
  const percent = Math.round(view.divider * 100);
  divider.setAttribute("aria-valuenow", percent);
  divider.setAttribute("aria-valuetext", `${percent} % ${nameOf("left")}, ${100 - percent} % ${nameOf("right")}`);
  const zoom = view.scale * devicePixelRatio;
  stage.style.setProperty("--scale", view.scale);
  stage.classList.toggle("crisp", zoom >= 2);
  find("zoom").textContent = `${Math.round(zoom * 100)} %`;
  paintLoupe(zoom);
}

function paintLoupe(zoom) {
  const on = find("loupe-switch").getAttribute("aria-pressed") === "true";
  const at = hovered ?? { x: stage.clientWidth / 2, y: stage.clientHeight / 2 };
  const middle = onPicture(at), x = Math.floor(middle.x), y = Math.floor(middle.y);
  const isOutside = x < 0 || y < 0 || x >= width || y >= height;
  loupe.hidden = !on || isOutside || pointers.size > 0;
  if (loupe.hidden) return;

  const canvas = loupe.querySelector("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
  const side = Math.round(LOUPE_PX * devicePixelRatio);
  canvas.width = 2 * side;
  canvas.height = side;
  pen.imageSmoothingEnabled = false;
  const seen = 2 * Math.floor(side / Math.max(8, 2 * zoom) / 2) + 1; // so many pixels of the picture: odd, one is in the middle
  const cell = side / seen;
  const texts = [];
  ["left", "right"].forEach((name, half) => {
    pen.save();
    pen.beginPath();
    pen.rect(half * side, 0, side, side);
    pen.clip();
    const corner = [half * side + (seen >> 1) * cell, (seen >> 1) * cell];
    pen.drawImage(pictures[chosen[name]], x - (seen >> 1), y - (seen >> 1), seen, seen, half * side, 0, side, side);
    const [red, green, blue, alpha] = pen.getImageData(corner[0] + cell / 2, corner[1] + cell / 2, 1, 1).data;
    const hex = [red, green, blue].map((value) => value.toString(16).padStart(2, "0")).join("");
    texts.push(alpha === 0 ? "transparent" : `#${hex}`);
    pen.strokeStyle = "#fff";
    pen.strokeRect(corner[0], corner[1], cell, cell);
    pen.restore();
  });
  pen.fillStyle = "#fff";
  pen.fillRect(side - 1, 0, 2, side);
  loupe.querySelector("p").replaceChildren(...[texts[0], `${x}, ${y}`, texts[1]].map((text) => {
    const span = document.createElement("span");
    span.textContent = text;
    return span;
  }));
  const gap = 24, { offsetWidth, offsetHeight } = loupe;
  const below = at.y + gap + offsetHeight <= stage.clientHeight;
  const left = clamp(at.x - offsetWidth / 2, 4, Math.max(4, stage.clientWidth - offsetWidth - 4));
  loupe.style.transform = `translate(${left}px, ${below ? at.y + gap : Math.max(4, at.y - gap - offsetHeight)}px)`;
}

// ---- pointer: drag, wheel, two fingers, double click

function onStage(event) {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  const at = onStage(event);
  const onDivider = divider.contains(event.target);
  event.preventDefault(); // no dragging of pictures, no selecting of text
  document.activeElement.blur(); // the keys are for the picture again
  if (onDivider) divider.focus({ focusVisible: false });
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { ...at, onDivider, grip: at.x - view.divider * stage.clientWidth });
  stage.classList.toggle("moving", !onDivider);
  const isDouble = event.timeStamp - lastTap.time < 350 && Math.hypot(at.x - lastTap.x, at.y - lastTap.y) < 20;
  lastTap = { time: isDouble || onDivider || pointers.size > 1 ? -Infinity : event.timeStamp, ...at };
  if (isDouble && !onDivider && pointers.size === 1) {
    if (view.fitted) zoomTo(fitScale() < 0.99 * exactScale() ? exactScale() : 4 * fitScale(), at);
    else fit();
  }
  draw();
});

stage.addEventListener("pointermove", (event) => {
  const at = onStage(event), before = pointers.get(event.pointerId);
  hovered = event.pointerType === "touch" ? hovered : at;
  if (!before) return draw();
  pointers.set(event.pointerId, { ...before, ...at });
  if (before.onDivider) return moveDivider((at.x - before.grip) / stage.clientWidth);
  const others = [...pointers.values()].filter((one) => !one.onDivider);
  if (others.length === 1) {
    view.fitted &&= Math.hypot(at.x - before.x, at.y - before.y) === 0;
    view.x -= (at.x - before.x) / view.scale;
    view.y -= (at.y - before.y) / view.scale;
    return draw();
  }
  const still = [...pointers].find(([id, one]) => id !== event.pointerId && !one.onDivider)[1];
  const spread = (one) => Math.max(1, Math.hypot(one.x - still.x, one.y - still.y));
  const middle = (one) => ({ x: (one.x + still.x) / 2, y: (one.y + still.y) / 2 });
  view.x -= (middle(at).x - middle(before).x) / view.scale;
  view.y -= (middle(at).y - middle(before).y) / view.scale;
  zoomTo(view.scale * spread(at) / spread(before), middle(at));
});

for (const kind of ["pointerup", "pointercancel"]) {
  stage.addEventListener(kind, (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size === 0) stage.classList.remove("moving");
    if (event.pointerType === "touch") hovered = onStage(event);
    draw();
  });
}

stage.addEventListener("pointerleave", () => {
  hovered = null;
  draw();
});

stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 100 : event.deltaY / 3;
  // two fingers on a touch pad come as a wheel with Ctrl, in finer steps
  zoomTo(view.scale * 2 ** clamp(-lines * (event.ctrlKey ? 2 : 0.5), -2, 2), onStage(event));
}, { passive: false });

// ---- keys and buttons

const pushDivider = (event, way) => moveDivider(view.divider + way * (event.shiftKey ? 0.1 : 0.02));
const swap = () => choose("left", chosen.right);
const pressLoupe = () => {
  const on = find("loupe-switch").getAttribute("aria-pressed") !== "true";
  find("loupe-switch").setAttribute("aria-pressed", on);
  draw();
};
const changeTheme = () => {
  const style = document.documentElement.style;
  const isDark = style.colorScheme ? style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = isDark ? "light" : "dark";
};

const KEYS = {
  "ArrowLeft": (event) => pushDivider(event, -1),
  "ArrowDown": (event) => pushDivider(event, -1),
  "ArrowRight": (event) => pushDivider(event, 1),
  "ArrowUp": (event) => pushDivider(event, 1),
  "PageUp": (event) => step(event.shiftKey ? "left" : "right", -1),
  "PageDown": (event) => step(event.shiftKey ? "left" : "right", 1),
  "Home": () => moveDivider(0),
  "End": () => moveDivider(1),
  " ": () => moveDivider(view.divider > 0.5 ? 0 : 1),
  "+": () => zoomTo(view.scale * Math.SQRT2),
  "=": () => zoomTo(view.scale * Math.SQRT2),
  "-": () => zoomTo(view.scale / Math.SQRT2),
  "_": () => zoomTo(view.scale / Math.SQRT2),
  "x": swap,
  "l": pressLoupe,
  "t": changeTheme,
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("select, dialog") || (event.key === " " && event.target.closest("button"));
  if (isTyping || event.ctrlKey || event.altKey || event.metaKey) return;
  // by the place of the key: with Shift, and on some keyboards without it, a digit's key gives a sign
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  const act = digit ? () => pressDigit(Number(digit[1]), event.shiftKey) : KEYS[event.key.toLowerCase()] ?? KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act(event);
});

function pressDigit(digit, shift) {
  if (shift) choose("right", digit - 1);
  else if (digit === 0) fit();
  else zoomTo(digit * exactScale());
}

for (const side of ["left", "right"]) {
  pictures.forEach((picture, number) => choices[side].add(new Option(`${number + 1}  ${picture.alt}`, number)));
  choices[side].addEventListener("change", () => choose(side, Number(choices[side].value)));
}
for (const [id, act] of [
  ["swap", swap], ["zoom-out", KEYS["-"]], ["zoom-in", KEYS["+"]], ["fit", fit], ["exact", () => zoomTo(exactScale())],
  ["loupe-switch", pressLoupe], ["theme", changeTheme], ["help-switch", KEYS["?"]],
]) find(id).addEventListener("click", act);

new ResizeObserver(draw).observe(stage);
place();
