// The form, the run of its images, and the messages.

import { ApiError, info, keepToken, segment } from "./api.js";
import { Viewer, clone, make, thumbnail } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const STEPS = { "": "starting", texts: "reading the class names", image: "reading the image", edges: "refining edges" };
const MOST_IMAGES = 100;
const MOST_ERRORS = 3;  // shown one by one
const SECONDS_TO_RETRY = 60;

let limits = null;
let chosen = [];  // {name, stem, file, url}
let running = null;  // AbortController
const viewer = new Viewer($("viewer"), say);

// --- start ---------------------------------------------------------------------

async function start() {
  showTheme(localStorage.getItem("itaclip-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  for (const id of ["settings-a", "settings-b"]) addSettings($(id));
  showExamples(await (await fetch("examples/list.json")).json());
  await loadInfo();
}

async function loadInfo() {
  let found;
  try {
    found = await info();
  } catch (error) {
    $("token").hidden = error.status !== 401;
    if (error.status === 401 && !sessionStorage.getItem("itaclip-token")) $("token-field").focus();
    else say(error.status === 401 ? "This is not the server's token." : error.message);
    return;
  }
  $("token").hidden = true;
  ({ limits } = found);
  $("model").textContent = `${found.model}.`;
  $("limits").textContent = `Up to ${limits.megapixels} megapixels and ${limits.upload_mb} MB per image.`;
  for (const id of ["settings-a", "settings-b"]) fillSettings($(id), found);
  if (found.own) {
    $("classes").value = found.own.classes;
    $("definitions").value = found.own.definitions;
    chooseBackground(found.own.background);
  }
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

// --- form ----------------------------------------------------------------------

function addSettings(fieldset) {
  fieldset.append(clone("settings-template"));
  const range = fieldset.querySelector("[type=range]");
  const show = () => { fieldset.querySelector("output").textContent = Number(range.value).toFixed(2); };
  range.addEventListener("input", show);
  fieldset.show = show;
}

function fillSettings(fieldset, { methods, defaults }) {
  const field = (name) => fieldset.querySelector(`[data-name=${name}]`);
  field("method").replaceChildren(...methods.map((name) => make("option", { value: name, textContent: name })));
  const other = fieldset.id === "settings-b" ? methods.find((name) => name !== defaults.method) : null;
  field("method").value = other ?? defaults.method;
  for (const name of ["refine", "views", "correct"]) field(name).checked = defaults[name];
  field("threshold").value = defaults.threshold;
  fieldset.show();
}

function chooseBackground(background) {
  const kind = ["general", "auto", "none"].includes(background) ? background : "own";
  document.querySelector(`[name=background][value=${kind}]`).checked = true;
  $("own").hidden = kind !== "own";
  if (kind === "own") $("own-words").value = background;
}

/** The fields of a request, but for the image. */
function fieldsOf(fieldset) {
  const kind = document.querySelector("[name=background]:checked").value;
  const fields = {
    classes: $("classes").value, definitions: $("definitions").value,
    background: kind === "own" ? $("own-words").value : kind,
  };
  for (const input of fieldset.querySelectorAll("[data-name]")) {
    fields[input.dataset.name] = input.type === "checkbox" ? String(input.checked) : input.value;
  }
  return fields;
}

function add(files) {
  const known = new Set(chosen.map(({ stem }) => stem));
  for (const file of files) {
    if (chosen.length >= MOST_IMAGES) {
      say(`At most ${MOST_IMAGES} images at once; for more, see the command "itaclip label".`);
      break;
    }
    const name = file.name || "pasted.png";
    const plain = name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "_").slice(0, 60) || "image";
    let stem = plain;
    for (let n = 2; known.has(stem); n++) stem = `${plain}_${n}`;
    known.add(stem);
    chosen.push({ name, stem, file, url: URL.createObjectURL(file) });
  }
  showChosen();
}

function showChosen() {
  $("clear").hidden = chosen.length < 2;
  $("chosen").replaceChildren(...chosen.map((entry) => {
    const button = make("button", { type: "button", title: `Remove ${entry.name}` }, thumbnail(entry),
      make("span", { textContent: entry.name }));
    button.setAttribute("aria-label", `Remove ${entry.name}`);
    button.addEventListener("click", () => {
      chosen = chosen.filter((other) => other !== entry);
      showChosen();
      ($("chosen").querySelector("button") ?? $("files")).focus();
    });
    return make("li", {}, button);
  }));
}

function showExamples(examples) {
  $("examples").replaceChildren(...examples.map(({ name, image, classes, background }) => {
    const button = make("button", { type: "button" }, make("img", { src: image, alt: "" }), make("span", { textContent: name }));
    button.addEventListener("click", async () => {
      const content = await (await fetch(image)).blob();
      chosen = [];
      add([new File([content], `${name.toLowerCase()}.jpg`, { type: "image/jpeg" })]);
      $("classes").value = classes;
      $("definitions").value = "";
      chooseBackground(background);
    });
    return make("li", {}, button);
  }));
}

// --- messages ------------------------------------------------------------------

function say(message, kind = "error") {
  const close = make("button", { type: "button", textContent: "×" });
  close.setAttribute("aria-label", "Close this message");
  const box = make("div", { className: `message ${kind}` }, make("p", { textContent: message }), close);
  close.addEventListener("click", () => box.remove());
  $("messages").append(box);
}

function showProgress(text, share) {
  if ($("step").textContent !== text) $("step").textContent = text;  // screen readers read changes only
  $("progress").value = share;
}

// --- run -----------------------------------------------------------------------

async function run() {
  if (running) return;
  $("messages").replaceChildren();
  if (!chosen.length) {
    say("Choose an image first, or one of the examples.");
    $("files").focus();
    return;
  }
  running = new AbortController();
  setRunning(true);
  const both = $("compare").checked;
  const settings = [$("settings-a"), ...(both ? [$("settings-b")] : [])].map(fieldsOf);
  const titles = settings.map((fields, i) => `${"AB"[i]}: ${described(fields, settings)}`);
  const items = chosen.map((entry) => ({ ...entry, answers: [], error: null }));
  const started = performance.now();
  let shown = false;
  try {
    for (const [number, item] of items.entries()) {
      const answers = [];
      try {
        for (const [which, fields] of settings.entries()) {
          const place = [items.length > 1 ? `Image ${number + 1} of ${items.length}` : "", both ? "AB"[which] : ""];
          const before = number * settings.length + which;
          answers.push(await patiently(item, fields, running.signal, (text, share) => showProgress(
            [...place.filter(Boolean), text].join(", "), (before + share) / (items.length * settings.length))));
        }
        item.answers = answers;
      } catch (error) {
        if (error.name === "AbortError") throw error;
        item.error = error.message.startsWith(item.name) ? error.message : `${item.name}: ${error.message}`;
        if (error.status === 401) $("token").hidden = false;
        if (items.filter((other) => other.error).length <= MOST_ERRORS) say(items.length > 1 ? item.error : error.message);
        if ([0, 401, 429, 503].includes(error.status)) break;  // the next image would fail in the same way
      }
      if (item.answers.length && !shown) {
        $("empty").hidden = true;
        await viewer.show(items, titles);
        shown = true;
      } else if (shown) viewer.refresh();
    }
    const failed = items.filter(({ error }) => error).length;
    if (failed > MOST_ERRORS) say(`${failed - MOST_ERRORS} more images failed.${shown ? " errors.txt in the ZIP file names them." : ""}`);
    const warnings = new Set(items.flatMap(({ answers }) => answers.flatMap((answer) => answer.warnings)));
    for (const warning of warnings) say(warning, "note");
    const done = items.filter(({ answers }) => answers.length).length;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    $("step").textContent = items.length > 1 ? `${done} of ${items.length} images done in ${seconds} s.`
      : done ? `Done in ${seconds} s.` : "";
  } catch (error) {
    $("step").textContent = "";
    const done = items.filter(({ answers }) => answers.length).length;
    if (error.name !== "AbortError") say(`Something went wrong: ${error.message}`);
    else say(items.length > 1 ? `Cancelled; ${done} of ${items.length} images are done.` : "Cancelled.", "note");
  } finally {
    running = null;
    setRunning(false);
  }
}

/** Segment an image; while the queue is full, come back. */
async function patiently(item, fields, signal, report) {
  if (limits && item.file.size > limits.upload_mb * 1e6) {
    throw new ApiError(413, `${item.name}: ${(item.file.size / 1e6).toFixed(1)} MB; at most ${limits.upload_mb} MB are accepted.`);
  }
  const until = performance.now() + 1000 * SECONDS_TO_RETRY;
  report("sending the image", 0);
  for (;;) {
    try {
      return await segment(item.file, fields, signal, ({ state, ahead, step, share }) => report(
        state === "waiting" ? `waiting, ${ahead} ahead in the queue` : STEPS[step], share ?? 0));
    } catch (error) {
      if (error.status !== 429 || performance.now() > until) throw error;
      report("waiting, the queue is full", 0);
      await pause(Math.min(error.retryAfter, 5), signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function setRunning(now) {
  $("segment").setAttribute("aria-disabled", String(now));
  $("running").classList.toggle("active", now);
  $("running").hidden = false;
  $("progress").hidden = !now;
  $("progress").value = 0;
  const focused = document.activeElement === $("cancel");
  $("cancel").hidden = !now;
  if (focused) $("segment").focus();
  if (now && $("result").getBoundingClientRect().top > innerHeight - 100) $("result").scrollIntoView({ behavior: "smooth" });
}

/** What tells a setting from the others, for captions. */
function described(fields, settings) {
  const names = { refine: "refined", views: "five views", correct: "regions" };
  const differs = (name) => settings.some((other) => other[name] !== fields[name]);
  const parts = [fields.method];
  for (const [name, word] of Object.entries(names)) if (differs(name)) parts.push(fields[name] === "true" ? word : `not ${word}`);
  if (differs("threshold")) parts.push(`threshold ${fields.threshold}`);
  return parts.join(", ");
}

// --- events --------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("cancel").addEventListener("click", () => running?.abort());
$("classes").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.shiftKey || event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  run();
});
$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = "";  // so that the same file can be chosen again
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});
document.querySelectorAll("[name=background]").forEach((radio) => radio.addEventListener("change", () => {
  $("own").hidden = radio.value !== "own";
}));
$("clear").addEventListener("click", () => {
  chosen = [];
  showChosen();
  $("files").focus();
});
$("compare").addEventListener("change", () => {
  $("settings-b").hidden = !$("compare").checked;
  $("settings-a").firstElementChild.textContent = $("compare").checked ? "Setting A" : "How to segment";
  if ($("compare").checked) document.querySelector("details").open = true;
});
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  showTheme(theme);
  localStorage.setItem("itaclip-theme", theme);
});
$("token-button").addEventListener("click", () => {
  keepToken($("token-field").value.trim());
  $("messages").replaceChildren();
  loadInfo();
});
$("token-field").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  $("token-button").click();
});

start();
