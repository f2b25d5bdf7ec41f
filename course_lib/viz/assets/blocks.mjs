// What the block explorer says: where a token lies, who holds a block, what became of it. No drawing here.
import { plural } from "./shared.mjs";

/** Where a token lies: {logical, offset, block, slot}. */
export function whereabouts(table, position, blockSize) {
  const logical = Math.floor(position / blockSize);
  const offset = position % blockSize;
  return { logical, offset, block: table[logical], slot: table[logical] * blockSize + offset };
}

/** Every place in the tables that maps to a block: [{request, logical}]. */
export function holders(tables, block) {
  return Object.entries(tables).flatMap(([request, table]) =>
    table.flatMap((held, logical) => (held === block ? [{ request, logical }] : [])),
  );
}

/** How many tokens a request has in one of its logical blocks. */
export function tokensIn(length, logical, blockSize) {
  return Math.max(0, Math.min(blockSize, length - logical * blockSize));
}

/** What became of a block since the event before: "new", "shared", "given back", "written" or "". */
export function change(before, now) {
  if (!before) return "";
  if (before.refs === 0 && now.refs > 0) return before.key && before.key === now.key ? "found" : "new";
  if (before.refs > 0 && now.refs === 0) return "given back";
  if (before.refs < now.refs) return "shared";
  if (before.refs > now.refs) return "let go";
  return before.tokens.join("\0") === now.tokens.join("\0") ? "" : "written";
}

/** A sentence on what is selected: {request}, {request, logical}, {request, logical, offset} or {block}. */
export function sentence(frame, blockSize, target) {
  if (target.block !== undefined) return ofBlock(frame, target.block);
  const { request, logical, offset } = target;
  const [table, length] = [frame.tables[request], frame.lengths[request]];
  if (logical === undefined) {
    const empty = table.length * blockSize - length;
    return (
      `${request}: ${plural(length, "token")} in ${plural(table.length, "block")} of ${plural(blockSize, "slot")}, ` +
      `block table [${table.join(", ")}]; ${plural(empty, "slot")} empty`
    );
  }
  if (offset === undefined) {
    const others = holders(frame.tables, table[logical]).filter((other) => other.request !== request);
    const shared = others.length ? `; held by ${others.map((other) => other.request).join(", ")} too` : "";
    const first = logical * blockSize;
    const last = first + tokensIn(length, logical, blockSize) - 1;
    const held = last < first ? "no token yet" : `tokens ${first} to ${last}`;
    return `${request}'s logical block ${logical}, ${held}, is physical block ${table[logical]}${shared}`;
  }
  const position = logical * blockSize + offset;
  const { block, slot } = whereabouts(table, position, blockSize);
  return (
    `${request}'s token ${position}: table[${position} // ${blockSize}] * ${blockSize} + ${position} % ${blockSize} = ` +
    `table[${logical}] * ${blockSize} + ${offset} = ${block} * ${blockSize} + ${offset} = slot ${slot}`
  );
}

function ofBlock(frame, id) {
  const { refs, tokens, key } = frame.blocks[id];
  const places = holders(frame.tables, id).map(({ request, logical }) => `${request}'s logical block ${logical}`);
  const place = frame.free.indexOf(id);
  const held = places.length
    ? `held by ${places.join(" and ")}`
    : `held by nobody${place < 0 ? "" : `, number ${place + 1} in the free list`}`;
  const cached = key
    ? `; in the prefix cache as ${key}…${places.length ? "" : ": a request with this prefix can have it back"}`
    : "";
  return `Block ${id}: reference count ${refs}, ${held}, ${plural(tokens.length, "token")}${cached}`;
}
