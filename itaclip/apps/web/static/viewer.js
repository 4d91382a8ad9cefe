// Shows results: pictures that can be pointed at, a legend that can be clicked, downloads.
// Names of classes and files are untrusted: they only ever become textContent.

import { decodeBase64, unpack } from "./api.js";
import { zip } from "./zip.js";

const RAMP = [[10, 10, 35], [85, 20, 110], [185, 55, 85], [245, 125, 45], [252, 230, 130]];
const VEIL = 0.6;  // how much other classes darken while one is lit up
const SAME = 0xb0000000;  // dark: a pixel on which two results agree
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function clone(id) {
  return document.getElementById(id).content.cloneNode(true);
}

export function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

/** One result of an image, decoded. */
class Layer {
  static async of(item, answer) {
    const layer = new Layer();
    layer.answer = answer;
    const [labels, score, runnerUp, runnerUpScore, image] = await Promise.all([
      unpack(answer.labels), unpack(answer.score), unpack(answer.runner_up), unpack(answer.runner_up_score),
      createImageBitmap(answer.picture ? new Blob([decodeBase64(answer.picture)]) : item.file).catch(() => null),
    ]);
    Object.assign(layer, { labels: labels.values, score, runnerUp, runnerUpScore, image });
    layer.maps = new Map();
    for (const [label, map] of Object.entries(answer.score_maps)) layer.maps.set(Number(label), await unpack(map));
    layer.highest = Math.max(1, ...[...layer.maps.values()].map((map) => map.values.reduce((a, b) => Math.max(a, b))));
    return layer;
  }

  /** Class, score and runner-up at a pixel of the image. */
  at(x, y) {
    const { width, height, classes } = this.answer;
    const read = (map) => map.values[
      Math.floor((y * map.height) / height) * map.width + Math.floor((x * map.width) / width)];
    const share = (map) => (read(map) / 255).toFixed(2);
    return {
      found: classes[this.labels[y * width + x]], score: share(this.score),
      second: classes.length > 1 ? classes[read(this.runnerUp)] : null, secondScore: share(this.runnerUpScore),
      scoreOf: (label) => (this.maps.has(label) ? share(this.maps.get(label)) : null),
    };
  }
}

/** A picture with its caption and the line that reads the pixel pointed at. */
class Pane {
  constructor(viewer, layer, title) {
    this.viewer = viewer;
    this.layer = layer;
    this.figure = clone("pane-template").firstElementChild;
    const find = (selector) => this.figure.querySelector(selector);
    [this.stage, this.sheet, this.base, this.paint] = [".stage", ".sheet", ".base", ".paint"].map(find);
    [this.marker, this.readout] = [".marker", ".readout"].map(find);
    find("figcaption").textContent = title;
    const { width, height, classes } = layer.answer;
    for (const canvas of [this.base, this.paint]) Object.assign(canvas, { width, height });
    if (layer.image) this.base.getContext("2d").drawImage(layer.image, 0, 0, width, height);
    this.pixels = new ImageData(width, height);
    this.stage.style.setProperty("--aspect", width / height);
    const shares = classes.filter(({ area }) => area).sort((a, b) => b.area - a.area).map(
      ({ name, area }) => `${name} ${percent(area)}`);
    this.stage.setAttribute("aria-label", `${title}. Classes by share: ${shares.join(", ")}. Arrow keys read pixels.`);
    this.listen();
  }

  listen() {
    const point = (event) => {
      const box = this.sheet.getBoundingClientRect();
      const place = (at, size) => Math.min(Math.max(at / size, 0), 0.999999);
      this.viewer.point(place(event.clientX - box.left, box.width), place(event.clientY - box.top, box.height));
    };
    this.stage.addEventListener("pointermove", point);
    this.stage.addEventListener("pointerdown", point);
    this.stage.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.viewer.point(null);
    });
    this.stage.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.viewer.point(null);
      const { width, height } = this.layer.answer;
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      const [dx, dy] = step.map((way) => way * (event.shiftKey ? 10 : 1));
      const [x, y] = this.viewer.pointer ?? [0.5, 0.5];
      const move = (at, by, size) => (Math.min(Math.max(Math.floor(at * size) + by, 0), size - 1) + 0.5) / size;
      this.viewer.point(move(x, dx, width), move(y, dy, height));
    });
    this.stage.addEventListener("scroll", () => this.viewer.scrolled(this.stage));
  }

  /** Colour the label map, or a score map, as the viewer is set. */
  draw() {
    const { mode, opacity, lit, hidden, scoreClass, panes } = this.viewer;
    const { classes } = this.layer.answer;
    this.figure.dataset.mode = mode;
    this.paint.style.opacity = { overlay: opacity, scores: 0.75, original: 0, differences: 0.9 }[mode] ?? 1;
    const context = this.paint.getContext("2d");
    if (mode === "scores") {
      this.drawn = null;
      this.drawScores(context, scoreClass);
      return;
    }
    const veil = Math.round(255 * Math.min(1, VEIL / Math.max(mode === "mask" ? 1 : opacity, 0.01)));
    const table = new Uint32Array(classes.length);
    classes.forEach(({ color: [red, green, blue] }, label) => {
      const color = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
      table[label] = lit !== null && label !== lit ? (veil << 24) >>> 0 : hidden.has(label) ? 0 : color;
    });
    const other = mode === "differences" ? panes.find((pane) => pane !== this)?.layer.labels : null;
    const drawn = `${table} ${Boolean(other)}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const out = new Uint32Array(this.pixels.data.buffer);
    const { labels } = this.layer;
    for (let i = 0; i < labels.length; i++) out[i] = other && labels[i] === other[i] ? SAME : table[labels[i]];
    context.putImageData(this.pixels, 0, 0);
  }

  drawScores(context, label) {
    const { width, height } = this.layer.answer;
    context.clearRect(0, 0, width, height);
    const map = this.layer.maps.get(label);
    if (!map) return;
    const small = new ImageData(map.width, map.height);
    map.values.forEach((value, i) => small.data.set([...heat(value / this.viewer.highest), 255], 4 * i));
    const canvas = make("canvas", { width: map.width, height: map.height });
    canvas.getContext("2d").putImageData(small, 0, 0);
    context.drawImage(canvas, 0, 0, width, height);
  }

  /** Mark a place and read its pixel. */
  read(pointer) {
    this.marker.hidden = !pointer;
    if (!pointer) {
      this.readout.replaceChildren(make("span", { className: "hint", textContent: "Point at the picture to read a pixel." }));
      return null;
    }
    const { width, height } = this.layer.answer;
    const [x, y] = [Math.floor(pointer[0] * width), Math.floor(pointer[1] * height)];
    this.marker.style.left = `${100 * pointer[0]}%`;
    this.marker.style.top = `${100 * pointer[1]}%`;
    const { found, score, second, secondScore, scoreOf } = this.layer.at(x, y);
    const parts = [swatch(found.color), make("strong", { textContent: found.name }), ` ${score}`];
    if (second) parts.push(", then ", swatch(second.color), second.name, ` ${secondScore}`);
    const { mode, scoreClass } = this.viewer;
    if (mode === "scores") parts.push(` · ${this.layer.answer.classes[scoreClass].name}: ${scoreOf(scoreClass) ?? "–"}`);
    this.readout.replaceChildren(make("span", {}, ...parts), make("span", { className: "hint", textContent: `x ${x}, y ${y}` }));
    return found.label;
  }

  /** The size on the screen, around the place that was pointed at last; 0 fits the picture into the page. */
  zoom(factor) {
    this.stage.classList.toggle("zoomed", factor > 0);
    this.sheet.style.width = factor ? `${(this.layer.answer.width * factor) / devicePixelRatio}px` : "";
    this.stage.style.setProperty("--width", this.sheet.style.width);
    const [x, y] = this.viewer.lastPlace;
    const { scrollWidth, scrollHeight, clientWidth, clientHeight } = this.stage;
    this.stage.scrollTo(x * scrollWidth - clientWidth / 2, y * scrollHeight - clientHeight / 2);
  }
}

export class Viewer {
  constructor(root, complain) {
    root.append(clone("viewer-template"));
    this.root = root;
    this.complain = complain;
    this.find = (selector) => root.querySelector(selector);
    this.items = [];
    this.panes = [];
    this.hidden = new Set();
    this.lit = null;
    this.pointer = null;
    this.lastPlace = [0.5, 0.5];
    this.scoreClass = 0;
    this.turn = 0;
    root.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => this.redraw()));
    this.find(".opacity input").addEventListener("input", () => this.redraw());
    this.find(".score-class select").addEventListener("change", (event) => {
      this.scoreClass = Number(event.target.value);
      this.redraw();
    });
    this.find(".zoom select").addEventListener("change", (event) => {
      for (const pane of this.panes) pane.zoom(Number(event.target.value));
    });
  }

  get mode() { return this.find("[name=mode]:checked").value; }

  get opacity() { return this.find(".opacity input").value / 100; }

  get highest() { return Math.max(...this.panes.map(({ layer }) => layer.highest)); }

  /** Show the results of a run: the images as a strip, one of them large. */
  async show(items, titles) {
    this.items = items;
    this.titles = titles;
    this.hidden.clear();
    await this.select(items.find(({ answers }) => answers.length));
  }

  /** Update the strip, and the ZIP button, while a run goes on. */
  refresh() {
    const strip = this.find(".strip");
    const focused = [...strip.querySelectorAll("button")].indexOf(document.activeElement);
    strip.hidden = this.items.length < 2;
    strip.replaceChildren(...this.items.map((item) => {
      const state = item.error ?? `${item.name}: ${item.answers.length ? "done" : "not done"}`;
      const button = make("button", { type: "button", title: state, disabled: !item.answers.length },
        thumbnail(item), make("span", { textContent: item.error ? `${item.name}: failed` : item.name }));
      button.classList.toggle("failed", Boolean(item.error));
      if (item === this.item) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this.select(item));
      return make("li", {}, button);
    }));
    strip.querySelectorAll("button")[focused]?.focus();
    this.drawDownloads();
  }

  async select(item) {
    const turn = ++this.turn;
    const layers = await Promise.all(item.answers.map((answer) => Layer.of(item, answer)));
    if (turn !== this.turn) return;  // another image was chosen meanwhile
    this.item = item;
    this.pointer = null;
    this.lastPlace = [0.5, 0.5];
    this.lit = null;
    this.panes = layers.map((layer, i) => new Pane(this, layer, layers.length > 1 ? this.titles[i] : item.name));
    const box = this.find(".panes");
    this.find(".body").classList.toggle("two", layers.length > 1);
    box.replaceChildren(...this.panes.map(({ figure }) => figure));
    this.root.hidden = false;
    this.find(".differences").hidden = layers.length < 2;
    if (layers.length < 2 && this.mode === "differences") this.find("[value=overlay]").checked = true;
    for (const pane of this.panes) pane.zoom(Number(this.find(".zoom select").value));
    this.fillScoreClasses();
    this.drawLegend();
    this.drawAgreement();
    this.refresh();
    this.redraw();
    this.point(null);
  }

  redraw() {
    const mode = this.mode;
    this.find(".opacity").hidden = mode !== "overlay";
    this.find(".score-class").hidden = mode !== "scores";
    this.find(".ramp").hidden = mode !== "scores";
    this.find(".ramp .highest").textContent = (this.highest / 255).toFixed(2);
    for (const pane of this.panes) pane.draw();
    for (const pane of this.panes) pane.read(this.pointer);
  }

  /** Read the same place in all panes; null ends it. */
  point(x, y) {
    this.pointer = x === null ? null : [x, y];
    if (this.pointer) this.lastPlace = this.pointer;
    const found = this.panes.map((pane) => pane.read(this.pointer));
    this.find(".legend ul").querySelectorAll("button").forEach((button) =>
      button.classList.toggle("here", found.includes(Number(button.value))));
  }

  light(label) {
    if (label === this.lit) return;
    this.lit = label;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.redraw());
  }

  scrolled(stage) {
    for (const pane of this.panes) {
      if (pane.stage !== stage) Object.assign(pane.stage, { scrollLeft: stage.scrollLeft, scrollTop: stage.scrollTop });
    }
  }

  /** The classes that occur in a pane, the largest first. */
  classesFound() {
    const answers = this.panes.map(({ layer }) => layer.answer);
    const areas = answers[0].classes.map(({ label }) => answers.map(({ classes }) => classes[label].area));
    const order = answers[0].classes.filter(({ label }) => areas[label].some(Boolean));
    order.sort((a, b) => Math.max(...areas[b.label]) - Math.max(...areas[a.label]));
    return order.map((entry) => ({ ...entry, areas: areas[entry.label] }));
  }

  fillScoreClasses() {
    const { classes } = this.panes[0].layer.answer;
    const known = [...this.panes[0].layer.maps.keys()];
    if (!known.includes(this.scoreClass)) this.scoreClass = known[0];
    this.find(".score-class select").replaceChildren(...known.map((label) =>
      make("option", { value: label, textContent: classes[label].name, selected: label === this.scoreClass })));
  }

  drawLegend() {
    const found = this.classesFound();
    const letters = this.panes.length > 1 ? ["A ", "B "] : [""];
    this.find(".legend ul").replaceChildren(...found.map(({ label, name, color, areas }) => {
      const button = make("button", { type: "button", value: label }, swatch(color),
        make("span", { className: "name", textContent: name }),
        ...areas.map((area, i) => make("span", { className: "share", textContent: letters[i] + percent(area) })));
      button.setAttribute("aria-pressed", String(!this.hidden.has(label)));
      button.setAttribute("aria-describedby", "legend-hint");
      button.addEventListener("click", () => {
        if (!this.hidden.delete(label)) this.hidden.add(label);
        button.setAttribute("aria-pressed", String(!this.hidden.has(label)));
        this.lit = null;  // or the change would not show before the pointer leaves
        this.redraw();
      });
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, (e) => {
        if (e.pointerType !== "touch" && (event !== "focus" || button.matches(":focus-visible"))) this.light(label);
      });
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.light(null));
      return make("li", {}, button);
    }));
    const absent = this.panes[0].layer.answer.classes.filter(({ label }) => !found.some((entry) => entry.label === label));
    this.find(".absent").textContent = absent.length ? `Not found: ${absent.map(({ name }) => name).join(", ")}` : "";
    const { background_words: words, background_choice: choice } = this.panes[0].layer.answer;
    this.find(".words").hidden = !words.length;
    this.find(".words summary").textContent = `Background: ${choice || "as saved"}`;
    this.find(".words p").textContent = words.join(", ");
  }

  drawAgreement() {
    const note = this.find(".agreement");
    note.hidden = this.panes.length < 2;
    if (note.hidden) return;
    const [a, b] = this.panes.map(({ layer }) => layer.labels);
    let same = 0;
    for (let i = 0; i < a.length; i++) same += a[i] === b[i];
    note.textContent = `A and B agree on ${percent(same / a.length)} of the pixels.`;
  }

  // --- downloads ---------------------------------------------------------------

  drawDownloads() {
    const one = this.item;
    if (!one) return;
    const all = this.items.length > 1 || this.panes.length > 1;
    const kinds = { mask: "Mask (PNG)", overlay: "Overlay (PNG)", json: "Summary (JSON)" };
    if (one.answers[0].coco) kinds.coco = "COCO (JSON)";
    const buttons = this.panes.length > 1 ? [] : Object.entries(kinds).map(([kind, label]) => this.button(label, async () => {
      const files = await this.files(one, 0);
      const { name, blob } = files.find((file) => file.kind === kind);
      save(blob, name);
    }));
    if (all) {
      const count = this.items.filter(({ answers }) => answers.length).length;
      buttons.push(this.button(count > 1 ? `ZIP of ${count} images` : this.panes.length > 1 ? "ZIP of both results" : "ZIP of 1 image", () => this.saveAll()));
    }
    const focused = document.activeElement?.closest?.(".downloads") && document.activeElement.textContent;
    this.find(".downloads").replaceChildren(...buttons);
    if (focused) buttons.find(({ textContent }) => textContent === focused)?.focus();
  }

  button(label, action) {
    const button = make("button", { type: "button", textContent: label });
    button.addEventListener("click", async () => {
      button.disabled = true;
      await action().catch((error) => this.complain(`The download failed: ${error.message}`));
      button.disabled = false;
    });
    return button;
  }

  async files(item, number) {
    const answer = item.answers[number];
    const layer = await Layer.of(item, answer);
    const json = (content) => new Blob([JSON.stringify(content, null, 2), "\n"], { type: "application/json" });
    const files = [
      { kind: "mask", name: `${item.stem}.png`, blob: new Blob([decodeBase64(answer.mask)], { type: "image/png" }) },
      { kind: "overlay", name: `${item.stem}_overlay.png`, blob: await this.overlay(layer) },
      { kind: "json", name: `${item.stem}.json`, blob: json(answer.summary) },
    ];
    if (answer.coco) files.push({ kind: "coco", name: `${item.stem}_coco.json`, blob: json(answer.coco) });
    return files;
  }

  /** The overlay of all shown classes at the image's own size, with the opacity that is set. */
  async overlay(layer) {
    const viewer = { mode: "overlay", opacity: this.opacity, lit: null, hidden: this.hidden, panes: [] };
    const pane = new Pane(viewer, layer, "");
    pane.draw();
    const context = pane.base.getContext("2d");
    context.globalAlpha = viewer.opacity;
    context.drawImage(pane.paint, 0, 0);
    return new Promise((resolve) => { pane.base.toBlob(resolve, "image/png"); });
  }

  async saveAll() {
    const files = [];
    const errors = [];
    for (const item of this.items) {
      for (const number of item.answers.keys()) {
        const folder = this.titles.length > 1 ? `${"ab"[number]}/` : "";
        for (const { name, blob } of await this.files(item, number)) files.push({ name: folder + name, blob });
      }
      if (item.error) errors.push(`${item.error}\n`);
    }
    if (errors.length) files.push({ name: "errors.txt", blob: new Blob(errors) });
    save(await zip(files), "itaclip.zip");
  }
}

export function thumbnail(item) {
  const image = make("img", { src: item.url, alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(make("span", { className: "no-preview", textContent: "no preview" })));
  return image;
}

function swatch(color) {
  const square = make("span", { className: "swatch" });
  square.style.backgroundColor = `rgb(${color.join(" ")})`;
  return square;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function heat(share) {
  const at = Math.min(share, 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((from, i) => from + (at - low) * (RAMP[low + 1][i] - from));
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
