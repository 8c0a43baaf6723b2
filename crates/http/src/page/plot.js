// Draws series over the last minutes, with marks for what happened.

import { svg } from "./graph.js";

const LEFT = 46;
const BOTTOM = 22;
const TOP = 12;

/** The next of 1, 2, 5, 10, 20, … that is not below `value`. */
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value * 0.9999);
}

function path(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/**
 * Draws into `into`. `series` is a list of {name, points: [[milliseconds ago, value]]}, `marks` of {ago, bad, text};
 * `format` writes a value, `least` is the least that the scale reaches to, and `top` the end of a scale for a value.
 */
export function drawPlot(into, { series, marks, span, format, least, what, top: end = nice }) {
  const [width, height] = [into.clientWidth, into.clientHeight];
  if (!width || !height) return;
  const highest = Math.max(least, ...series.flatMap(({ points }) => points.map(([, value]) => value)));
  const top = end(highest);
  const x = (ago) => LEFT + (width - LEFT - 4) * (1 - ago / span);
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / top);
  const now = series.map(({ name, points }) => `${name} ${format(points.at(-1)?.[1] ?? 0)}`).join(", ");
  const picture = svg("svg", { role: "img", "aria-label": `${what} over the last ${span / 60000} minutes. Now: ${now || "nothing"}. Highest: ${format(highest === least ? 0 : highest)}.` });
  for (const part of [0, 0.5, 1]) {
    picture.append(
      svg("line", { x1: LEFT, x2: width, y1: y(top * part), y2: y(top * part), class: "grid" }),
      svg("text", { x: LEFT - 8, y: y(top * part) + 4, "text-anchor": "end", class: "axis" }, format(top * part)),
    );
  }
  const minutes = span / 60000;
  for (const [ago, text, anchor] of [[span, `${minutes} min ago`, "start"], [span / 2, `${minutes / 2} min`, "middle"], [0, "now", "end"]]) {
    picture.append(svg("text", { x: x(ago), y: height - 4, "text-anchor": anchor, class: "axis" }, text));
  }
  for (const { ago, bad, text } of marks.filter((mark) => mark.ago <= span)) {
    const kind = bad ? " bad" : "";
    const flag = svg("path", { d: `M${x(ago) - 5} ${TOP - 10}h10l-5 8z`, class: `flag${kind}` });
    flag.append(svg("title", {}, text));
    picture.append(svg("line", { x1: x(ago), x2: x(ago), y1: TOP - 4, y2: height - BOTTOM, class: `mark${kind}` }), flag);
  }
  series.forEach(({ points }, index) => {
    const drawn = points.filter(([ago]) => ago <= span).map(([ago, value]) => [x(ago), y(value)]);
    if (drawn.length < 2) return;
    const kind = `s${index % 4}`;
    // Several grounds over one another would be mud.
    if (series.length === 1) {
      const area = `${path(drawn)}L${drawn.at(-1)[0].toFixed(1)} ${y(0)}L${drawn[0][0].toFixed(1)} ${y(0)}Z`;
      picture.append(svg("path", { d: area, class: `area ${kind}` }));
    }
    picture.append(svg("path", { d: path(drawn), class: `series ${kind}` }));
  });
  into.replaceChildren(picture);
}

/** Names the series, each beside a piece of its line. */
export function drawLegend(into, names) {
  into.replaceChildren(...names.map((name, index) => {
    const entry = document.createElement("span");
    const line = svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" });
    line.append(svg("path", { d: "M1 4h26", class: `series s${index % 4}` }));
    entry.append(line, name);
    return entry;
  }));
}
