// The KV calculator: what a model's weights and its keys and values take of a GPU's memory, worked out in the browser.
import { bytes, choice, fact, GIB, labelled, number } from "./calculator.mjs";
import { caption, count, element, ownerStyle, percent, plural, rendering } from "./shared.mjs";

/** Bytes that one token leaves in the cache: a key and a value, of every KV head, in every layer. */
export function kvBytesPerToken(shape, bytesPerNumber) {
  return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytesPerNumber;
}

/** All that the calculator shows; `settings` as in `kv_budget` of kv_calculator.py, whose numbers these are. */
export function budget(shape, settings) {
  const perToken = kvBytesPerToken(shape, settings.kv_bytes);
  const perRequest = perToken * settings.context;
  const weights = shape.parameters * settings.weight_bytes;
  const memory = Math.floor(settings.gpu_gib * GIB);
  const usable = Math.floor(memory * settings.utilization);
  const room = Math.max(0, usable - weights);
  return {
    kv_bytes_per_token: perToken,
    kv_bytes_per_request: perRequest,
    kv_bytes: perRequest * settings.requests,
    weight_bytes: weights,
    memory_bytes: memory,
    usable_bytes: usable,
    tokens_that_fit: Math.floor(room / perToken),
    requests_that_fit: Math.floor(room / perRequest),
  };
}

/** The bar's parts: [{name, bytes, kind}]; its length is the memory, or more where the parts need more. */
export function parts({ weight_bytes, kv_bytes, memory_bytes, usable_bytes }) {
  const free = usable_bytes - weight_bytes - kv_bytes;
  return [
    { name: "weights", bytes: weight_bytes, kind: "used weights" },
    { name: "KV cache", bytes: kv_bytes, kind: "reserved cache" },
    { name: "free for more KV", bytes: Math.max(0, free), kind: "free" },
    {
      name: "not given to the engine",
      bytes: Math.max(0, memory_bytes - Math.max(usable_bytes, weight_bytes + kv_bytes)),
      kind: "internal",
    },
  ];
}

const FIELDS = [
  [
    "weight_bytes",
    "Weights",
    [
      [4, "fp32, 4 bytes"],
      [2, "bf16, 2 bytes"],
      [1, "fp8, 1 byte"],
      [0.5, "int4, ½ byte"],
    ],
  ],
  [
    "kv_bytes",
    "KV cache",
    [
      [4, "fp32, 4 bytes"],
      [2, "bf16, 2 bytes"],
      [1, "fp8, 1 byte"],
    ],
  ],
  ["context", "Tokens per request", { min: 1, max: 1048576, step: 1 }],
  ["requests", "Requests at once", { min: 1, max: 100000, step: 1 }],
  ["gpu_gib", "GPU memory (GiB)", { min: 0.25, max: 4096, step: "any" }],
  ["utilization", "Memory utilization", { min: 0.05, max: 1, step: 0.01 }],
];

function build(model, root) {
  const { title, shapes, model: first, settings: given } = model.get("payload");
  const settings = { ...given };
  let shape = shapes.find(({ name }) => name === first);
  const result = element("div", { class: "result", "aria-live": "polite" });
  const names = shapes.map(({ name }) => [name, name]);
  const form = element(
    "div",
    { class: "form" },
    labelled(
      "Model",
      choice(names, shape.name, (name) => {
        shape = shapes.find((other) => other.name === name);
        show();
      }),
    ),
    ...FIELDS.map(([key, label, kind]) =>
      labelled(
        label,
        Array.isArray(kind)
          ? choice(kind, settings[key], (value) => {
              settings[key] = Number(value);
              show();
            })
          : number(kind, settings[key], (value) => {
              settings[key] = value;
              show();
            }),
      ),
    ),
  );
  root.append(...caption(title), form, result);

  function show() {
    const sums = budget(shape, settings);
    result.replaceChildren(facts(sums), bar(sums), verdict(sums));
  }
  function facts(sums) {
    const formula = `2 × ${shape.layers} layers × ${shape.kv_heads} KV heads × ${shape.head_dim} × ${plural(settings.kv_bytes, "byte")}`;
    return element(
      "div",
      { class: "facts" },
      fact("KV per token", bytes(sums.kv_bytes_per_token), formula),
      fact("KV per request", bytes(sums.kv_bytes_per_request), `× ${plural(settings.context, "token")}`),
      fact(
        "Weights",
        bytes(sums.weight_bytes),
        `${(shape.parameters / 1e9).toFixed(2)} billion parameters × ${settings.weight_bytes}`,
      ),
      fact("Tokens that fit", count(sums.tokens_that_fit), "in what the weights leave"),
      fact("Requests that fit", count(sums.requests_that_fit), `of ${plural(settings.context, "token")} each`),
    );
  }
  function bar(sums) {
    const all = parts(sums);
    const total = all.reduce((sum, part) => sum + part.bytes, 0);
    const said = all.map((part) => `${part.name} ${bytes(part.bytes)}`).join(", ");
    const limit = sums.usable_bytes / total;
    return element(
      "div",
      { class: "memory" },
      element(
        "div",
        { class: "gauge", role: "img", "aria-label": said },
        ...all.map((part) =>
          element(
            "div",
            {
              class: `piece ${part.kind}`,
              style: `width: ${(100 * part.bytes) / total}%; ${part.kind === "reserved cache" ? ownerStyle(1) : part.kind === "used weights" ? ownerStyle(0) : ""}`,
              title: `${part.name} ${bytes(part.bytes)}`,
            },
            part.bytes / total > 0.13 ? element("span", {}, `${part.name} ${bytes(part.bytes)}`) : "",
          ),
        ),
        element("i", {
          class: "limit",
          style: `left: ${100 * limit}%`,
          title: `the engine's share: ${bytes(sums.usable_bytes)}`,
        }),
      ),
      element("small", { class: "under" }, `${said}; the line: what the engine may use`),
    );
  }
  function verdict(sums) {
    const need = sums.weight_bytes + sums.kv_bytes;
    const over = need - sums.usable_bytes;
    const share = `${bytes(need)} of ${bytes(sums.usable_bytes)} (${percent(need / sums.usable_bytes)})`;
    if (sums.weight_bytes > sums.usable_bytes)
      return element("p", { class: "refused" }, `✗ The weights alone do not fit: ${share}.`);
    if (over > 0)
      return element(
        "p",
        { class: "refused" },
        `✗ ${plural(settings.requests, "request")} do not fit: ${share}; ${bytes(over)} too much.`,
      );
    return element(
      "p",
      {},
      `✓ ${plural(settings.requests, "request")} of ${plural(settings.context, "token")} fit: ${share}.`,
    );
  }
  show();
  return () => {};
}

const render = rendering(build);
export default { render };
