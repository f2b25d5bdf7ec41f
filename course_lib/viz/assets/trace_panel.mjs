// One trace at one step: the queue, the batch, the blocks, and what happened.
import { element, ownerStyle, percent, plural } from "./shared.mjs";
import { MARKS, cellWords, cells, progress, rowWords } from "./trace_data.mjs";

const SHOWN_ROWS = 12; // a larger batch scrolls

/** A request's name on its colour. */
function chip(request, short, className = "", ...more) {
  return element("span", { class: `chip ${className}`, style: ownerStyle(request) }, element("i", {}, short), ...more);
}

/**
 * The panel of a view. `select(request or null)` is called when a request is pointed at. Returns its element, `show(step, fields)`
 * (with what differs from the other trace) and `highlight(request or null)`.
 */
export function panel(view, { requests, short }, select) {
  const { frames, blocks, block_size: blockSize } = view;
  const longest = Math.max(...frames.flatMap((frame) => frame.running.map(({ known }) => known)), 1);
  const batch = Math.max(...frames.map(({ running }) => running.length));
  const happenings = Math.max(...frames.map(({ events }) => events.length));
  const head = element("p", { class: "source" });
  const longestQueue = Math.max(...frames.map(({ waiting }) => waiting.length));
  const queue = element("div", { class: "queue", style: `--lines: ${longestQueue > 3 ? 2 : 1}` });
  const rows = element("div", { class: "batch", style: `--rows: ${Math.min(batch, SHOWN_ROWS)}` });
  const columns = blocks.length <= 32 ? 8 : blocks.length <= 256 ? 16 : 32;
  const grid = element("div", { class: `blocks of-${columns}`, role: "img", style: `--columns: ${columns}` });
  const squares = blocks.map(() => element("div", {}));
  const drawn = []; // what each square shows
  grid.append(...squares);
  const [queueHead, batchHead, blocksHead] = [0, 1, 2].map(() => element("div", { class: "heading" }));
  const free = element("p", { class: "free-list" });
  const events = element("dl", {
    class: "events",
    style: `--lines: ${Math.min(happenings, 6)}`,
    "aria-live": "polite",
  });
  const state = element(
    "div",
    { class: "state" },
    element("div", { class: "people" }, queueHead, queue, batchHead, rows),
    element("div", { class: "memory" }, blocksHead, grid, free, legend()),
  );
  let selected = null;

  const places = {
    "the queue": queueHead,
    "block tables": blocksHead,
    "cached blocks": blocksHead,
    evictions: blocksHead,
    "the free list": free,
  };

  function show(step, fields = []) {
    const frame = frames[Math.min(step, frames.length - 1)];
    const over = step >= frames.length;
    node.classList.toggle("over", over);
    head.replaceChildren(
      element("b", {}, view.source),
      over ? `ended after ${plural(frames.length, "step")}` : sums(step),
    );
    queueHead.textContent = `Waiting: ${frame.waiting.length || "nobody"}`;
    queue.replaceChildren(...frame.waiting.map(waiter));
    batchHead.textContent = `Running: ${frame.running.length || "nobody"}`;
    rows.replaceChildren(...frame.running.map(row));
    drawBlocks(frame);
    drawFree(frame);
    for (const place of [queueHead, batchHead, blocksHead, free]) {
      place.classList.toggle(
        "differ",
        fields.some((field) => (places[field] ?? batchHead) === place),
      );
    }
    events.replaceChildren(
      ...frame.events.flatMap(({ kind, text }) => [
        element("dt", { class: kind.toLowerCase().replace(" ", "-") }, kind),
        element("dd", {}, text),
      ]),
    );
    highlight(selected);
  }
  function sums(step) {
    const { prefill, decode, seconds } = view.timeline;
    const total = prefill[step] + decode[step];
    const time = seconds.length ? `, ${(1000 * seconds[step]).toFixed(1)} ms` : "";
    return `${plural(total, "token")}: ${prefill[step]} prefill + ${decode[step]} decode${time}`;
  }
  function waiter({ request, known, mark }, place) {
    const sign = { new: " new", preempted: " ↩ preempted", "": "" }[mark];
    const said = `${requests[request]}, number ${place + 1} in the queue, ${plural(known, "token")}${sign}`;
    return pointed(
      chip(request, short[request], `waiter ${mark}`, `${known}`, sign ? element("em", {}, sign) : ""),
      request,
      said,
    );
  }
  function row(one) {
    const { request, prompt, known, computed, tokens, state: does, cached } = one;
    const width = (count) => `${(100 * count) / longest}%`;
    const bar = element(
      "span",
      { class: "bar" },
      ...progress(one).map(([kind, count]) =>
        element("span", { class: `part ${kind}`, style: `width: ${width(count)}` }),
      ),
      element("span", { class: "prompt-end", style: `left: ${width(prompt)}` }),
    );
    const spared = cached ? element("em", {}, `✓ ${cached} cached`) : "";
    return pointed(
      element(
        "div",
        { class: `row-of-batch ${does} ${cached === null ? "" : "admitted"}`, style: ownerStyle(request) },
        chip(request, short[request]),
        bar,
        element("span", { class: "count" }, `${computed} / ${known}`),
        element("span", { class: "does" }, tokens ? `+${tokens} ${does}` : "idle", " ", spared),
      ),
      request,
      rowWords(one, requests[request]),
    );
  }
  function pointed(part, request, said) {
    part.dataset.who = request;
    part.setAttribute("title", said);
    part.setAttribute("aria-label", said);
    part.setAttribute("role", "img");
    part.addEventListener("mouseenter", () => select(request));
    part.addEventListener("mouseleave", () => select(null));
    return part;
  }
  function drawBlocks(frame) {
    const found = cells(frame, blocks, blockSize);
    const held = blocks.length + view.hidden_blocks - frame.free_count;
    const all = blocks.length + view.hidden_blocks;
    const hidden = view.hidden_blocks ? ` (${view.hidden_blocks.toLocaleString("en")} not drawn)` : "";
    blocksHead.textContent = `Blocks of ${plural(blockSize, "slot")}: ${held} of ${all} held, ${percent(held / all)}${hidden}`;
    found.forEach((cell, place) => {
      // Few blocks change from a step to the next; the others stay as they are drawn.
      const key = JSON.stringify(cell);
      if (drawn[place] !== key) drawBlock(squares[place], cell, blocks[place]);
      drawn[place] = key;
    });
    const used = found.flatMap((cell, place) => (cell.state === "free" ? [] : [[cell, blocks[place]]])).slice(0, 60);
    const told = used.map(([cell, block]) => cellWords(cell, block, blockSize, short));
    grid.setAttribute("aria-label", told.join("; ") || "all free");
  }
  function drawBlock(square, cell, block) {
    const partly = cell.who.length && cell.filled < blockSize;
    square.className = `square ${cell.state} ${partly ? "partly" : ""} ${cell.mark ? "touched" : ""}`;
    const [first, second = 0] = cell.who;
    const colors = first === undefined ? "" : ownerStyle(first);
    square.style.cssText = `${colors}--second: var(--owner-${second % 6}); --filled: ${(100 * cell.filled) / blockSize}%`;
    square.title = cellWords(cell, block, blockSize, requests);
    square.dataset.who = cell.who.join(" ");
    const label = cell.who.length > 1 ? `${cell.who.length}x` : cell.who.length ? short[first] : "";
    square.replaceChildren(
      element("small", {}, block),
      element("u", {}, MARKS[cell.mark] ?? ""),
      element("span", {}, label),
    );
  }
  function drawFree(frame) {
    const cached = new Set(frame.cached);
    const chips = frame.free.map((block) =>
      element(
        "span",
        {
          class: `next ${cached.has(block) ? "cached" : ""}`,
          title: cached.has(block) ? "taking it evicts its tokens" : "empty",
        },
        element("span", {}, block),
      ),
    );
    const more = frame.free_count > frame.free.length ? [`and ${frame.free_count - frame.free.length} more`] : [];
    free.replaceChildren(
      element("b", {}, `Free list, ${frame.free_count}`),
      ...(chips.length ? ["next →"] : ["empty"]),
      ...chips,
      ...more,
    );
  }
  function highlight(request) {
    selected = request;
    if (request === null && !state.classList.contains("selecting")) return;
    state.classList.toggle("selecting", request !== null);
    for (const part of state.querySelectorAll("[data-who]")) {
      part.classList.toggle("on", request !== null && part.dataset.who.split(" ").includes(String(request)));
    }
  }
  grid.addEventListener("mouseover", ({ target }) => {
    const who = target.closest(".square")?.dataset.who;
    select(who ? Number(who.split(" ")[0]) : null);
  });
  grid.addEventListener("mouseleave", () => select(null));
  const hidden = view.hidden_steps
    ? [
        element(
          "p",
          { class: "note" },
          `The first ${frames.length} steps are shown; ${view.hidden_steps} more are not.`,
        ),
      ]
    : [];
  const node = element("section", { class: "panel", "aria-label": view.source }, head, state, events, ...hidden);
  return { node, show, highlight };
}

/** What the blocks' looks and signs mean. */
function legend() {
  const looks = [
    ["held", "full"],
    ["held partly", "partly computed"],
    ["shared", "shared"],
    ["cached", "free, cached"],
    ["free", "free"],
  ];
  const signs = { taken: "taken", hit: "found in the cache", evicted: "evicted", freed: "given back" };
  return element(
    "ul",
    { class: "key", style: "--owner: var(--owner-0); --ink: var(--ink-0); --second: var(--owner-1); --filled: 50%" },
    ...looks.map(([look, text]) => element("li", {}, element("i", { class: `square ${look}` }), text)),
    ...Object.entries(signs).map(([mark, text]) => element("li", {}, element("b", {}, MARKS[mark]), text)),
  );
}
