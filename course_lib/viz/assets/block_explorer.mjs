// The block explorer: requests with their block tables on the left, the physical pool on the right, lines between them.
import { caption, element, onWidth, ownerStyle, player, plural, rendering, svg } from "./shared.mjs";
import { change, holders, sentence, tokensIn } from "./blocks.mjs";

const same = (a, b) => a && b && ["request", "logical", "offset", "block"].every((part) => a[part] === b[part]);

function build(model, root) {
  const { title, block_size: blockSize, owners, frames } = model.get("payload");
  const told = element("p", { class: "event", "aria-live": "polite" });
  const requests = element("div", {
    class: "requests",
    role: "group",
    "aria-label": "requests and their block tables",
  });
  const pool = element("div", { class: "pool", role: "group", "aria-label": "physical blocks" });
  const wires = svg("svg", { class: "wires", "aria-hidden": "true" });
  const free = element("p", { class: "free-list" });
  const detail = element("p", { class: "detail", "aria-live": "polite" });
  const controls = player(model, frames.length, show);
  const sides = element(
    "div",
    { class: `sides ${blockSize <= 4 ? "texts" : "squares"}`, style: `--slots: ${Math.min(blockSize, 8)}` },
    requests,
    pool,
    wires,
  );
  root.append(...caption(title), told, sides, free, detail, controls.bar);
  let frame = frames[0];
  let items = []; // {node, target} of everything that can be selected
  let pinned = null;

  function show(index) {
    frame = frames[index];
    const before = frames[index - 1];
    items = [];
    told.replaceChildren(frame.event);
    requests.replaceChildren(heading("Requests and their block tables"), ...Object.keys(frame.tables).map(requestPart));
    if (!Object.keys(frame.tables).length) requests.append(element("small", {}, "no request holds a block"));
    pool.replaceChildren(
      heading("Physical blocks"),
      element(
        "div",
        { class: "grid" },
        ...frame.blocks.map((block, id) => card(block, id, change(before?.blocks[id], block))),
      ),
    );
    free.replaceChildren(element("b", {}, `Free list, ${plural(frame.free.length, "block")}: `), freeList());
    if (!exists(pinned)) pinned = null;
    rove();
    highlight(pinned);
  }
  const heading = (text) => element("div", { class: "heading" }, text);
  const freeList = () =>
    frame.free.length === 0
      ? "empty"
      : `next → ${frame.free.slice(0, 24).join(" → ")}${frame.free.length > 24 ? " → …" : ""}`;
  const exists = (target) => target && items.some((item) => same(item.target, target));

  function selectable(tag, className, target, attributes, ...children) {
    const events = {
      onmouseenter: () => highlight(target),
      onmouseleave: () => highlight(pinned),
      onfocus: () => pin(target),
      onclick: (click) => {
        click.stopPropagation();
        pin(target);
      },
    };
    const node = element(tag, { class: className, ...attributes, ...events }, ...children);
    items.push({ node, target });
    return node;
  }
  function button(className, target, style, label, ...children) {
    return selectable(
      "div",
      className,
      target,
      { role: "button", tabindex: -1, style, "aria-label": label },
      ...children,
    );
  }
  function requestPart(request) {
    const [table, length] = [frame.tables[request], frame.lengths[request]];
    const color = ownerStyle(owners.indexOf(request));
    return element(
      "div",
      { class: "request", style: color },
      button(
        "name",
        { request },
        "",
        sentence(frame, blockSize, { request }),
        element("i", {}, request),
        `${plural(length, "token")}, ${plural(table.length, "block")}`,
      ),
      ...table.map((id, logical) =>
        button(
          "entry",
          { request, logical },
          "",
          sentence(frame, blockSize, { request, logical }),
          element("span", { class: "logical" }, logical),
          slots(id, tokensIn(length, logical, blockSize), { request, logical }),
          element("span", { class: "physical" }, `→ ${id}`),
        ),
      ),
    );
  }
  function slots(id, filled, target) {
    return element(
      "span",
      { class: "slots" },
      ...Array.from({ length: blockSize }, (_, offset) => {
        const text = offset < filled ? (frame.blocks[id].tokens[offset] ?? "") : "";
        const attributes = { title: text || null };
        const className = `cell ${offset < filled ? "full" : ""}`;
        const content = blockSize <= 4 ? text : "";
        return target && offset < filled
          ? selectable("span", className, { ...target, offset }, attributes, content)
          : element("span", { class: className, ...attributes }, content);
      }),
    );
  }
  function card({ refs, tokens, key }, id, changed) {
    const who = [...new Set(holders(frame.tables, id).map(({ request }) => request))];
    const bands = who.map((request) => element("i", { style: ownerStyle(owners.indexOf(request)) }, request));
    const marks = [
      element("em", {}, `ref ${refs}`),
      ...(key ? [element("em", {}, "cached")] : []),
      ...(changed ? [element("em", { class: "changed" }, changed)] : []),
    ];
    const state = refs ? "held" : "free";
    return button(
      `card ${state} ${changed ? "touched" : ""}`,
      { block: id },
      who.length ? ownerStyle(owners.indexOf(who[0])) : "",
      sentence(frame, blockSize, { block: id }),
      element("span", { class: "head" }, element("b", {}, id), ...bands, ...marks),
      slots(id, tokens.length),
    );
  }

  function pin(target) {
    pinned = target;
    rove();
    highlight(target);
  }
  /** One tab stop for each side; arrow keys move on from it. */
  function rove() {
    for (const side of [requests, pool]) {
      const nodes = [...side.querySelectorAll("[role=button]")];
      const here =
        items.find((item) => same(item.target, pinned) && side.contains(item.node))?.node.closest("[role=button]") ??
        nodes[0];
      nodes.forEach((node) => node.setAttribute("tabindex", node === here ? 0 : -1));
    }
  }
  function highlight(target) {
    const pairs = target ? related(target) : [];
    for (const item of items) item.node.classList.toggle("on", Boolean(target) && isOn(item.target, target, pairs));
    sides.classList.toggle("selecting", Boolean(target));
    detail.textContent = target
      ? sentence(frame, blockSize, target)
      : "Point at a request, a token or a block, or reach one by Tab and the arrow keys.";
    draw(pairs);
  }
  function related({ request, logical, block }) {
    if (block !== undefined) return holders(frame.tables, block).map((pair) => ({ ...pair, block }));
    return frame.tables[request].flatMap((held, place) =>
      logical === undefined || place === logical ? [{ request, logical: place, block: held }] : [],
    );
  }
  function isOn(item, target, pairs) {
    if (same(item, target)) return true;
    if (item.offset !== undefined) return false;
    if (item.block !== undefined) return pairs.some((pair) => pair.block === item.block);
    return (
      item.logical !== undefined && pairs.some((pair) => pair.request === item.request && pair.logical === item.logical)
    );
  }
  function draw(pairs) {
    const origin = sides.getBoundingClientRect();
    const box = (target) => items.find((item) => same(item.target, target)).node.getBoundingClientRect();
    wires.replaceChildren(
      ...pairs.map(({ request, logical, block }) => {
        const [from, to] = [box({ request, logical }), box({ block })];
        const [x, y] = [from.right - origin.left, from.top + from.height / 2 - origin.top];
        const [endX, endY] = [to.left - origin.left, to.top + 12 - origin.top];
        const bend = (endX - x) / 2;
        return svg("path", {
          style: ownerStyle(owners.indexOf(request)),
          d: `M${x} ${y}C${x + bend} ${y} ${endX - bend} ${endY} ${endX} ${endY}`,
        });
      }),
    );
  }

  sides.addEventListener("keydown", (press) => {
    if (press.key === "Escape") return pin(null);
    const here = press.target.closest("[role=button]");
    const side = [requests, pool].find((part) => part.contains(here));
    if (!side || !press.key.startsWith("Arrow")) return;
    press.preventDefault();
    const across = press.key === "ArrowLeft" ? -1 : press.key === "ArrowRight" ? 1 : 0;
    if (side === requests && across) return alongTokens(across);
    const nodes = [...side.querySelectorAll("[role=button]")];
    const columns =
      side === pool ? Math.max(1, nodes.filter((node) => node.offsetTop === nodes[0].offsetTop).length) : 1;
    nodes[nodes.indexOf(here) + (across || (press.key === "ArrowUp" ? -columns : columns))]?.focus();
  });
  function alongTokens(step) {
    if (pinned?.logical === undefined) return;
    const { request, logical, offset } = pinned;
    const next = offset === undefined ? { request, logical, offset: 0 } : { request, logical, offset: offset + step };
    if (exists(next)) {
      pinned = next;
      highlight(next);
    }
  }
  root.addEventListener("click", (click) => {
    if (sides.contains(click.target)) pin(null);
  });

  controls.update();
  const unwatch = onWidth(root, () => highlight(pinned));
  return () => {
    unwatch();
    controls.stop();
  };
}

const render = rendering(build);
export default { render };
