// Draws the pipeline: inputs first, each process after all that lead to it.

const WIDEST = 176;
const NARROWEST = 128;
const HEIGHT = 58;
const SPACE = 12;

/** An element of an SVG picture. */
export function svg(name, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A rate as a person says it. */
export function rate(value) {
  if (value === 0) return "0/s";
  if (value < 10) return `${value.toFixed(1)}/s`;
  if (value < 1000) return `${Math.round(value)}/s`;
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e4 ? 1 : 0)}k/s`;
  return `${(value / 1e6).toFixed(1)}M/s`;
}

/** For each node the number of links on the longest way to it. */
function ranks(graph) {
  const rank = new Map(graph.inputs.map((id) => [id, 0]));
  for (const id of graph.processes) rank.set(id, 1);
  // There is no cycle, so this ends; the bound is for a graph that nobody has checked.
  for (let round = 0; round < graph.processes.length; round += 1) {
    let changed = false;
    for (const [from, to] of graph.links) {
      if (rank.get(to) <= rank.get(from)) {
        rank.set(to, rank.get(from) + 1);
        changed = true;
      }
    }
    if (!changed) break;
  }
  return rank;
}

/** Nodes by rank, each near those that lead to it. */
function layers(graph) {
  const rank = ranks(graph);
  const byRank = [];
  for (const id of [...graph.inputs, ...graph.processes]) {
    (byRank[rank.get(id)] ??= []).push(id);
  }
  const all = byRank.filter(Boolean);
  for (let index = 1; index < all.length; index += 1) {
    const before = all[index - 1];
    const middle = (id) => {
      const places = graph.links.filter(([, to]) => to === id).map(([from]) => before.indexOf(from));
      const known = places.filter((place) => place >= 0);
      return known.length ? known.reduce((sum, place) => sum + place, 0) / known.length : before.length;
    };
    all[index].sort((a, b) => middle(a) - middle(b));
  }
  return all;
}

/** Where everything goes. Upright where there is no room across. */
function place(graph, room) {
  const all = layers(graph);
  const gap = 118;
  const across = all.length * WIDEST + (all.length - 1) * gap;
  const upright = across > room;
  const most = Math.max(...all.map((layer) => layer.length));
  const between = 18;
  const fitting = Math.floor((room - 2 * SPACE - (most - 1) * between) / most);
  const box = upright ? Math.max(NARROWEST, Math.min(WIDEST, fitting)) : WIDEST;
  const at = new Map();
  const [step, side] = upright ? [HEIGHT + 62, box + between] : [box + gap, HEIGHT + 30];
  all.forEach((layer, index) => {
    layer.forEach((id, place) => {
      const along = index * step;
      const beside = (place + (most - layer.length) / 2) * side;
      at.set(id, upright ? [beside, along] : [along, beside]);
    });
  });
  const [long, wide] = [(all.length - 1) * step, (most - 1) * side];
  const size = upright ? [wide + box, long + HEIGHT] : [long + box, wide + HEIGHT];
  return { at, upright, size, box };
}

function shortened(text, box) {
  const most = Math.floor((box - 18) / 8.2);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function drawEdge(picture, from, to, { upright, box }, label, moving) {
  const [x1, y1] = upright ? [from[0] + box / 2, from[1] + HEIGHT] : [from[0] + box, from[1] + HEIGHT / 2];
  const [x2, y2] = upright ? [to[0] + box / 2, to[1] - 7] : [to[0] - 7, to[1] + HEIGHT / 2];
  const bend = upright ? `${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2}` : `${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2}`;
  picture.append(svg("path", { d: `M${x1} ${y1}C${bend} ${x2} ${y2}`, class: moving ? "edge moving" : "edge" }));
  const tip = upright ? `M${x2 - 5} ${y2}h10l-5 7z` : `M${x2} ${y2 - 5}v10l7 -5z`;
  picture.append(svg("path", { d: tip, class: "tip" }));
  const [x, y, width] = [(x1 + x2) / 2, (y1 + y2) / 2, label.length * 7.4 + 16];
  const tag = svg("g", { class: "rate" });
  tag.append(
    svg("rect", { x: x - width / 2, y: y - 11, width, height: 22, rx: 11 }),
    svg("text", { x, y: y + 4.5, "text-anchor": "middle" }, label),
  );
  return tag;
}

/** Draws `graph` into `into`; `rates` tells of a link, `node` of a node what stands below its name. */
export function drawGraph(into, graph, rates, node) {
  const style = getComputedStyle(into);
  const room = into.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const plan = place(graph, room);
  const { at, size, box } = plan;
  const [width, height] = [size[0] + 2 * SPACE, size[1] + 2 * SPACE];
  const picture = svg("svg", {
    viewBox: `${-SPACE} ${-SPACE} ${width} ${height}`, width, height, role: "img",
    "aria-label": `The pipeline: ${graph.inputs.length} inputs, ${graph.processes.length} processes, ${graph.links.length} links. The table after it says the same.`,
  });
  const tags = graph.links.map(([from, to]) => {
    const value = rates(from, to);
    return drawEdge(picture, at.get(from), at.get(to), plan, rate(value), value > 0);
  });
  for (const [id, [x, y]] of at) {
    const { what, bad, isInput } = node(id);
    const group = svg("g", { class: `node${isInput ? " input-node" : ""}${bad ? " bad" : ""}` });
    group.append(
      svg("title", {}, `${id}: ${what}`),
      svg("rect", { x, y, width: box, height: HEIGHT, rx: isInput ? HEIGHT / 2 : 12 }),
      svg("text", { x: x + box / 2, y: y + 25, "text-anchor": "middle", class: "name" }, shortened(id, box)),
      svg("text", { x: x + box / 2, y: y + 44, "text-anchor": "middle", class: "what" }, what),
    );
    picture.append(group);
  }
  // Above everything: a label must be readable wherever lines cross.
  picture.append(...tags);
  into.replaceChildren(picture);
}
