// The samples of a step, token by token: coloured by what the trainer made of them, all that is known in a tooltip.
import { element, plural } from "./shared.mjs";
import { TINTS, brief, fate, heat, largestAdvantage, nearest, provenance, signed, token } from "./dashboard_scale.mjs";

/** The table of samples. Returns its element and `draw()`, which does nothing where the same is shown already. */
export function samplesOf(view) {
  let [kind, place, shown, largest] = ["advantage", 0, "", 1];
  const heading = element("h4");
  const note = element("small");
  const body = element("div", { class: "groups" });
  const tints = Object.entries(TINTS).map(([name, { label }]) =>
    element("button", { type: "button", "data-kind": name, onclick: () => ((kind = name), draw()) }, label),
  );
  const whose = element("span", { class: "whose" });
  const by = element("span", { class: "by" }, "coloured by");
  const scale = element("p", { class: "scale" });
  const node = element(
    "section",
    { class: "wide samples" },
    element("div", { class: "head-line" }, heading, whose, by, ...tints, note),
    scale,
    body,
  );

  function draw() {
    const run = view.runs[Math.min(place, view.runs.length - 1)];
    const steps = Object.keys(run?.samples ?? {}).map(Number);
    const step = steps[nearest(steps, view.chosen)];
    const key = `${place}/${step}/${kind}/${view.runs.length}/${run?.samples[step]?.groups.length}`;
    if (key === shown) return remark(run, step);
    shown = key;
    tints.forEach((button) => button.setAttribute("aria-pressed", button.dataset.kind === kind));
    for (const part of [by, ...tints, scale]) part.hidden = !run?.samples[step];
    whose.replaceChildren(...(view.runs.length > 1 ? view.runs.map(switchTo) : []));
    const there = run?.samples[step];
    heading.textContent = there ? `Samples of step ${step}` : "Samples";
    largest = largestAdvantage(there?.groups ?? []);
    const told = there && there.groups.some(({ samples }) => samples.some(({ tokens }) => tokens.text.length));
    scale.replaceChildren(...(there ? legend(told) : []));
    const columns = element(
      "div",
      { class: "sample columns" },
      ...["reward", "advantage"].map((name) => element("span", { class: "number" }, name)),
      element("span", {}, "completion"),
    );
    body.replaceChildren(
      ...(there ? [columns] : []),
      ...(there ? there.groups.map((group) => groupOf(group, there.version)) : []),
    );
    remark(run, step);
  }
  function remark(run, step) {
    const there = run?.samples[step];
    if (!there) {
      note.textContent = "There are none here: no samples.jsonl, or this view does not know the run's folder.";
      return;
    }
    const count = there.groups.reduce((sum, { samples }) => sum + samples.length, 0);
    const of =
      count < there.total
        ? `${count} of ${plural(there.total, "sample")}, groups with a signal first`
        : plural(count, "sample");
    const version =
      there.version === null || there.version === undefined ? "" : `, drawn with weights ${there.version}`;
    note.textContent = `${of}${version}.${step === view.chosen ? "" : ` The page has none of step ${view.chosen}.`}`;
  }
  const switchTo = (run, number) =>
    element(
      "button",
      { type: "button", "aria-pressed": number === place, onclick: () => ((place = number), draw()) },
      run.name,
    );

  function legend(told) {
    const { low, high } = TINTS[kind];
    const mark = (name, text) =>
      element("span", { class: "entry" }, element("span", { class: `token ${name}` }, "abc"), ` ${text}`);
    const end = (side, text) =>
      element("span", { class: "entry" }, element("span", { class: "token", style: tinted(side) }, "abc"), ` ${text}`);
    const fates = [
      mark("clipped", "clipped"),
      mark("truncated", "truncated"),
      mark("masked", "masked"),
      mark("unseen", "not trained on"),
    ];
    return [end(-1, low), end(1, high), ...(told ? fates : [])];
  }
  function groupOf({ question, answer, samples }, version) {
    return element(
      "div",
      { class: "group" },
      element("p", { class: "question" }, question, element("span", { class: "answer" }, answer ? ` → ${answer}` : "")),
      ...samples.map((sample) => rowOf(sample, version)),
    );
  }
  function rowOf(sample, version) {
    const parts = Object.entries(sample.parts);
    const reward = element("span", { class: "number", tabindex: parts.length ? 0 : null }, brief(sample.reward));
    if (parts.length)
      view.tip.explains(
        reward,
        "reward",
        parts.map(([name, value]) => [name, brief(value)]),
      );
    return element(
      "div",
      { class: "sample" },
      reward,
      element("span", { class: "number" }, signed(sample.advantage)),
      tokensOf(sample, version),
    );
  }
  function tokensOf(sample, version) {
    const { text } = sample.tokens;
    if (!text.length) {
      const told = { advantage: sample.advantage };
      return element(
        "p",
        { class: "tokens" },
        element(
          "span",
          { class: "token", style: tinted(heat(told, kind, largest)), title: fate({}, false) },
          visible(sample.completion),
        ),
      );
    }
    const spans = text.map((_, at) => {
      const told = token(sample, at);
      const marks = ["clipped", "truncated", "masked"].filter((name) => told[name]);
      const names = ["token", ...marks, ...(told.seen ? [] : ["unseen"])].join(" ");
      return element(
        "span",
        { class: names, style: tinted(heat(told, kind, largest)), tabindex: at ? -1 : 0, "data-at": at },
        visible(text[at]),
      );
    });
    const line = element(
      "p",
      { class: "tokens", "aria-label": "the completion's tokens; arrow keys go through them" },
      ...spans,
    );
    const tell = (span) => {
      const { left, bottom, top } = span.getBoundingClientRect();
      view.tip.show(left, bottom, "", provenance(sample, Number(span.dataset.at), version), top);
    };
    const spanOf = ({ target }) => (target.dataset?.at === undefined ? null : target);
    line.addEventListener("pointerover", (move) => spanOf(move) && tell(spanOf(move)));
    line.addEventListener("pointerleave", () => view.tip.hide());
    line.addEventListener("focusin", (focus) => spanOf(focus) && tell(spanOf(focus)));
    line.addEventListener("focusout", () => view.tip.hide());
    line.addEventListener("keydown", (press) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (!(press.key in moves) || !spanOf(press)) return;
      spans[Math.max(0, Math.min(spans.length - 1, Number(press.target.dataset.at) + moves[press.key]))].focus();
      press.preventDefault();
    });
    return line;
  }
  return { node, draw };
}

/** Blue for more, vermillion for less: the theme's pair that everybody tells apart. */
function tinted(share) {
  if (share === null) return null;
  const owner = share < 0 ? 4 : 0;
  return `--owner: var(--owner-${owner}); --heat: ${Math.round(58 * Math.abs(share))}%`;
}

/** Text with a sign for each character that has no look of its own. */
const visible = (text) =>
  text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/[\x00-\x1f]/g, (control) => String.fromCharCode(0x2400 + control.charCodeAt(0)));
