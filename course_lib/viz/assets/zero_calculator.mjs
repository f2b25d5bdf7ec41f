// The ZeRO calculator: what training holds on each rank, worked out in the browser as training/zero_memory.py does.
import { bytes, choice, fact, GIB, labelled, number } from "./calculator.mjs";
import { caption, count, element, percent, plural, rendering } from "./shared.mjs";

const BF16 = 2;
const FP32 = 4;
const HEAD = 16;
const MOST_RANKS = 1024;

/** Bytes that one layer leaves for its backward pass. */
export function layerActivations(shape, tokens, length) {
  const queries = shape.heads * shape.head_dim;
  const keys = shape.kv_heads * shape.head_dim;
  const repeated = shape.kv_heads > 1 ? queries : keys;
  let each = 16 * shape.hidden + 8 + 4 * (queries + repeated) + 4 * shape.heads + 2 * length + 8 * shape.intermediate;
  if (shape.qk_norm) each += 6 * (queries + keys) + 4 * (shape.heads + shape.kv_heads);
  return tokens * each;
}

/** Bytes that a forward pass leaves. */
export function savedActivations(shape, tokens, length, checkpointing) {
  const each = 8 * shape.hidden + 24;
  return checkpointing
    ? tokens * (each + 2 * shape.layers * shape.hidden)
    : tokens * (each + 4 * shape.head_dim) + shape.layers * layerActivations(shape, tokens, length);
}

/** The settings without the offloads that the stage does not have. */
export function possible(settings) {
  return {
    ...settings,
    offload_optimizer: settings.offload_optimizer && settings.stage > 0,
    offload_param: settings.offload_param && settings.stage === 3,
  };
}

/** What one rank holds at its fullest moment: {device, host}, each {category: bytes}. */
export function budget(shape, given) {
  const settings = possible(given);
  const { stage, ranks, offload_optimizer: offload } = settings;
  const tokens = settings.rows * settings.length;
  const whole = shape.parameters;
  const share = Math.ceil(whole / ranks);
  const gathers = stage === 3 && (ranks > 1 || settings.offload_param);
  const [device, host] = [empty(), empty()];
  (settings.offload_param ? host : device).weights = BF16 * (stage === 3 ? share : whole);
  if (gathers) device.weights += BF16 * shape.persistent;
  for (const state of ["master", "exp_avg", "exp_avg_sq"])
    (offload ? host : device)[state] = FP32 * (stage ? share : whole);
  device.gradients = BF16 * (stage >= 2 ? share : whole);
  if (offload) {
    host.gradients = FP32 * share + (stage >= 2 ? BF16 * share : 0);
    if (stage >= 2) device.gradients = 0;
    if (stage <= 2) host.buffers = BF16 * (share + shape.largest);
  }
  const saved = savedActivations(shape, tokens, settings.length, settings.gradient_checkpointing);
  const again = settings.gradient_checkpointing ? layerActivations(shape, tokens, settings.length) : 0;

  const bucket = stage ? BF16 * shape.bucket : 0;
  let always = gathers ? BF16 * (Math.min(whole, shape.live) - shape.persistent) : 0;
  if (offload && stage <= 2) always += BF16 * shape.largest;
  always += BF16 * shape.vocab * shape.hidden;
  const atHead = saved + HEAD * tokens * shape.chunk + always + (stage === 2 ? 0 : bucket);
  const inLayers = saved + again + always + bucket;
  const atReduction = stage < 2 ? 0 : bucket + BF16 * Math.min(whole, shape.bucket) + (stage === 3 ? always : 0);
  const fullest = Math.max(atHead, inLayers, atReduction, atStep(shape, stage, offload, share, bucket));
  device.activations = saved + again;
  device.buffers = fullest - saved - again;
  return { device, host };
}

const empty = () => ({
  weights: 0,
  gradients: 0,
  master: 0,
  exp_avg: 0,
  exp_avg_sq: 0,
  activations: 0,
  buffers: 0,
});

/** What the optimizer's step holds beside the states. */
function atStep(shape, stage, offload, share, bucket) {
  if (stage === 0) return FP32 * shape.parameters;
  if (offload) return stage === 3 ? bucket : 0;
  const copies = (BF16 + FP32) * (stage === 3 ? Math.min(share, shape.sub_group) : share);
  if (stage === 1) return copies - BF16 * (shape.parameters - share);
  return copies + (stage === 3 ? bucket : 0);
}

export const total = (parts) => Object.values(parts).reduce((sum, size) => sum + size, 0);

/** What to change, one after the other, until it fits: [{text, device_bytes}]. */
export function remedies(shape, given) {
  let settings = possible(given);
  const room = settings.gpu_gib * GIB;
  let now = total(budget(shape, settings).device);
  const found = [];
  for (const change of CHANGES) {
    for (const [text, changed] of change(settings)) {
      const size = total(budget(shape, changed).device);
      if (now <= room || size >= now) continue;
      settings = changed;
      now = size;
      found.push({ text, device_bytes: size });
    }
  }
  return found;
}

const CHANGES = [
  (now) => (now.gradient_checkpointing ? [] : [["gradient checkpointing", { ...now, gradient_checkpointing: true }]]),
  (now) => [1, 2, 3].filter((stage) => stage > now.stage).map((stage) => [`ZeRO-${stage}`, { ...now, stage }]),
  (now) => (now.rows > 1 ? [["micro-batches of 1 row", { ...now, rows: 1 }]] : []),
  (now) =>
    now.offload_optimizer
      ? []
      : [["the optimizer on the host", { ...now, stage: Math.max(1, now.stage), offload_optimizer: true }]],
  (now) =>
    now.stage === 3 && !now.offload_param ? [["the weights on the host", { ...now, offload_param: true }]] : [],
  (now) => {
    const steps = [];
    for (let ranks = 2 * now.ranks; ranks <= MOST_RANKS; ranks *= 2) steps.push([`${ranks} ranks`, { ...now, ranks }]);
    return steps;
  },
];

const WHERE = [
  [0, "on the GPU"],
  [1, "on the host"],
];
const FIELDS = [
  ["ranks", "Ranks (GPUs)", { min: 1, max: 4096, step: 1 }],
  [
    "stage",
    "ZeRO stage",
    [
      [0, "0: all replicated"],
      [1, "1: optimizer cut"],
      [2, "2: + gradients"],
      [3, "3: + weights"],
    ],
  ],
  ["offload_optimizer", "Optimizer", WHERE],
  ["offload_param", "Weights", WHERE],
  [
    "gradient_checkpointing",
    "Activations",
    [
      [0, "all kept"],
      [1, "checkpointed"],
    ],
  ],
  ["rows", "Micro-batch (rows)", { min: 1, max: 4096, step: 1 }],
  ["length", "Sequence (tokens)", { min: 1, max: 1048576, step: 1 }],
  ["gpu_gib", "GPU memory (GiB)", { min: 0.25, max: 4096, step: "any" }],
];

function build(model, root) {
  const { title, shapes, kinds, model: first, settings: given } = model.get("payload");
  const settings = { ...given };
  let shape = shapes.find(({ name }) => name === first);
  const result = element("div", { class: "result", "aria-live": "polite" });
  const fields = {};
  for (const [key, , kind] of FIELDS) {
    const change = (value) => {
      settings[key] = typeof given[key] === "boolean" ? value === "1" : Number(value);
      show();
    };
    fields[key] = Array.isArray(kind) ? choice(kind, Number(settings[key]), change) : number(kind, settings[key], change);
  }
  const names = shapes.map(({ name }) => [name, name]);
  const models = choice(names, shape.name, (name) => {
    shape = shapes.find((other) => other.name === name);
    show();
  });
  const form = FIELDS.map(([key, label]) => labelled(label, fields[key]));
  root.append(...caption(title), element("div", { class: "form" }, labelled("Model", models), ...form), result);

  function show() {
    fields.offload_optimizer.disabled = settings.stage === 0;
    fields.offload_param.disabled = settings.stage !== 3;
    const sums = budget(shape, settings);
    const scale = Math.max(total(sums.device), total(sums.host), settings.gpu_gib * GIB);
    const room = settings.gpu_gib * GIB;
    result.replaceChildren(
      facts(sums),
      bar("On each GPU", sums.device, scale, room),
      ...(total(sums.host) ? [bar("In the host's memory, for each GPU", sums.host, scale)] : []),
      ...verdict(total(sums.device), room),
    );
  }
  function facts(sums) {
    const states = total(sums.device) - sums.device.activations - sums.device.buffers;
    return element(
      "div",
      { class: "facts" },
      fact("Parameters", `${(shape.parameters / 1e9).toFixed(2)} billion`, `${plural(settings.ranks, "rank")}`),
      fact(
        "Weights, gradients, optimizer",
        bytes(states),
        `${(states / shape.parameters).toFixed(1)} bytes a parameter on each GPU`,
      ),
      fact(
        "Activations",
        bytes(sums.device.activations),
        `of ${count(settings.rows * settings.length)} tokens in a micro-batch`,
      ),
      fact("Buffers", bytes(sums.device.buffers), "at the fullest moment"),
    );
  }
  function bar(name, parts, scale, room) {
    const listed = kinds.filter(({ key }) => parts[key]);
    const said = listed.map((kind) => `${kind.name} ${bytes(parts[kind.key])}`).join(", ");
    const pieces = listed.map((kind) => {
      const share = parts[kind.key] / scale;
      const text = `${kind.name} ${bytes(parts[kind.key])}`;
      const style = `width: ${100 * share}%; --owner: ${kind.color};`;
      const shown = share > 0.045 + 0.0065 * text.length ? text : share > 0.09 ? kind.key : "";
      const label = shown ? element("span", { style: `color: ${kind.ink}` }, shown) : "";
      return element("div", { class: "piece used", style, title: text }, label);
    });
    const limit = room
      ? [element("i", { class: "limit", style: `left: ${(100 * room) / scale}%`, title: `the GPU's memory: ${bytes(room)}` })]
      : [];
    return element(
      "div",
      { class: "memory" },
      element("div", { class: "heading" }, `${name}: ${bytes(total(parts))}`),
      element("div", { class: "gauge", role: "img", "aria-label": said }, ...pieces, ...limit),
      element("small", { class: "under" }, room ? `${said}; the line: the GPU's memory` : said),
    );
  }
  function verdict(need, room) {
    const share = `${bytes(need)} of ${bytes(room)} (${percent(need / room)})`;
    if (need <= room) return [element("p", {}, `✓ It fits: ${share} on each GPU.`)];
    const found = remedies(shape, settings);
    const enough = found.length > 0 && found[found.length - 1].device_bytes <= room;
    const steps = found.map((step) => `${step.text} (${bytes(step.device_bytes)})`).join(", then ");
    const advice = found.length ? `${enough ? "What would do" : "Not even this would do"}: ${steps}.` : "Nothing here helps.";
    return [
      element("p", { class: "refused" }, `✗ It does not fit: ${share} on each GPU.`),
      element("p", {}, advice),
    ];
  }
  show();
  return () => {};
}

const render = rendering(build);
export default { render };
