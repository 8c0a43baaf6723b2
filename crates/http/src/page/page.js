// Asks this replica how it is, every second, and shows the answers.

import { drawGraph, rate } from "./graph.js";
import { drawLegend, drawPlot, nice } from "./plot.js";
import { prepareActions, showActions, showLetters } from "./letters.js";

const ASK_EVERY = 1000;
const REMEMBER_EVERY = 2000;
const RATE_OVER = 10000;
const STEPS = [2, 5, 10].map((minutes) => minutes * 60000);
const WORDS = { leading: "Leading", standing_by: "Standing by", starting: "Starting", failed: "Restarting", running: "Running", draining: "Stopping" };
const MARKED = new Set(["takeover", "leading", "failed", "not_ready"]);
const BAD = new Set(["failed", "not_ready"]);

const $ = (id) => document.getElementById(id);
let last = null;
let history = null;
let remembered = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function count(value) {
  return value.toLocaleString("en");
}

/** The end of a scale of seconds; it and its half are read at a glance. */
function niceSeconds(value) {
  if (value <= 20) return nice(value);
  return [40, 60, 120, 240, 600, 1200, 3600, 7200, 14400, 43200, 86400].find((step) => step >= value) ?? 86400 * nice(value / 86400);
}

/** A duration as a person says it. */
function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

/** For each route the events handled per second, over the last seconds. */
function rates({ samples, routes }) {
  const newest = samples.at(-1);
  const older = samples.find((sample) => sample.ago_ms - (newest?.ago_ms ?? 0) <= RATE_OVER);
  const of = new Map();
  routes.forEach(([input, process], index) => {
    const seconds = newest && older ? (older.ago_ms - newest.ago_ms) / 1000 : 0;
    const events = seconds ? Math.max(0, newest.routes[index][0] - older.routes[index][0]) : 0;
    of.set(`${input}\n${process}`, seconds ? events / seconds : 0);
  });
  return of;
}

function showVerdict({ inputs }) {
  const bad = inputs.filter((input) => !input.ready);
  const leads = inputs.filter((input) => input.role === "leading" || input.role === "running").length;
  let [state, headline, reason] = ["standing_by", "Standing by", "Another replica leads. This one could take over at any moment."];
  if (bad.length) {
    [state, headline] = ["failing", bad.some((input) => input.role === "draining") ? "Stopping" : "Not ready"];
    reason = bad.map((input) => `${inputs.length > 1 ? `${input.id}: ` : ""}${input.reason}`).join("; ");
    reason = `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
  } else if (leads === inputs.length) {
    [state, headline] = ["leading", "Leading"];
    reason = inputs.some((input) => input.cursor?.lag_changes) ? "Changes are being handled as they come." : "Everything that was committed has been handled.";
  } else if (leads) {
    [state, headline, reason] = ["leading", `Leading ${leads} of ${inputs.length} inputs`, "Standing by for the others."];
  }
  $("verdict").dataset.state = state;
  write($("headline"), headline);
  write($("reason"), reason);
  document.title = `${headline} – dapper`;
  // Read out when it changes, not each time that a second has passed.
  const spoken = `${headline}. ${reason.replace(/\d+/g, "")}`;
  if (spoken !== last) write($("live"), `${headline}. ${reason}`);
  last = spoken;
}

function who(input) {
  const holder = input.cursor?.status?.holder;
  const token = input.cursor ? `token ${count(input.cursor.token)}` : "";
  if (!holder) return token;
  const since = holder.for_seconds === null || holder.for_seconds === undefined ? "" : ` for ${duration(holder.for_seconds)}`;
  const name = holder.replica ? `${holder.replica.run_by}, process ${holder.replica.process_id}` : holder.id.slice(0, 8);
  return `held by ${name}${since}, ${token}`;
}

function showInput(input, isOnly) {
  const id = `input-${input.id}`;
  let card = document.getElementById(id);
  if (!card) {
    const figure = (name, key) => [element("dt", { textContent: name }), element("dd", { className: key })];
    const figures = [["Lag", "lag"], ["Changes waiting", "waiting"], ["In flight", "flight"], ["Parked keys", "parked"], ["Dead letters", "dead"]];
    card = element("li", { className: "card input", id },
      element("header", {}, element("h3", { textContent: input.id }), element("span", { className: "chip" }), element("span", { className: "who" })),
      element("p", { className: "why" }),
      element("dl", { className: "figures" }, ...figures.map(([name, key]) => element("div", {}, ...figure(name, key)))),
      element("p", { className: "standbys" }));
    $("inputs").append(card);
  }
  const part = (name) => card.querySelector(`.${name}`);
  part("chip").dataset.state = input.ready ? input.role : "failing";
  write(part("chip"), WORDS[input.role] ?? input.role);
  write(part("who"), who(input));
  // The headline says it where there is one input alone.
  part("why").hidden = input.ready || isOnly;
  write(part("why"), input.reason ? `${input.reason.charAt(0).toUpperCase()}${input.reason.slice(1)}.` : "");
  const { cursor } = input;
  const put = (name, value, bad = false) => {
    write(part(name), value);
    part(name).dataset.bad = bad;
  };
  put("lag", cursor ? (cursor.lag_changes ? duration(cursor.lag_seconds) : "none") : "–", cursor?.lag_seconds > 60);
  put("waiting", cursor ? count(cursor.lag_changes) : "–");
  put("flight", count(input.in_flight));
  put("parked", cursor ? count(cursor.parked_keys) : "–", cursor?.parked_keys > 0);
  put("dead", cursor ? count(cursor.dead_letters) : "–", cursor?.dead_letters > 0);
  const standbys = input.cursor?.status?.standbys;
  part("standbys").hidden = !standbys;
  if (standbys) {
    const names = standbys.map((one) => `${one.run_by}, process ${one.process_id}`).join(" · ");
    write(part("standbys"), standbys.length ? `Standing by: ${names}` : "Nobody stands by.");
  }
}

function showGraph({ graph, inputs, processes }, history) {
  const now = rates(history);
  const ofRoute = (input, process) => now.get(`${input}\n${process}`) ?? 0;
  const ofLink = (from, to) => {
    if (graph.inputs.includes(from)) return ofRoute(from, to);
    // What a process has handled goes on to the next one, whichever input it came from.
    const through = graph.inputs.filter((input) => now.has(`${input}\n${from}`));
    return through.reduce((sum, input) => sum + ofRoute(input, to), 0);
  };
  drawGraph($("graph"), graph, ofLink, (id) => {
    const input = inputs.find((one) => one.id === id);
    if (input) return { what: input.ready ? WORDS[input.role].toLowerCase() : "not ready", bad: !input.ready, isInput: true };
    const process = processes.find((one) => one.id === id);
    return process.failing
      ? { what: `${count(process.failures)} failures in a row`, bad: true }
      : { what: `${count(process.handled)} handled`, bad: false };
  });
  $("graph-table").tBodies[0].replaceChildren(...graph.links.map(([from, to]) =>
    element("tr", {}, ...[from, to, rate(ofLink(from, to))].map((text) => element("td", { textContent: text })))));
}

function showPlots(graph, history) {
  const { samples, kept_for_ms: most, routes, events } = history;
  // As long as there is something to show, in whole steps, so that the scale seldom changes.
  const span = STEPS.find((step) => step >= (samples[0]?.ago_ms ?? 0)) ?? most;
  const marks = events.filter((event) => MARKED.has(event.kind)).map((event) => ({ ago: event.ago_ms, bad: BAD.has(event.kind), text: event.text }));
  const throughput = graph.processes.map((name) => {
    const mine = routes.map(([, process], index) => (process === name ? index : -1)).filter((index) => index >= 0);
    const total = (sample) => mine.reduce((sum, index) => sum + sample.routes[index][0], 0);
    const points = samples.slice(1).map((sample, index) => {
      const seconds = (samples[index].ago_ms - sample.ago_ms) / 1000;
      return [sample.ago_ms, seconds > 0 ? Math.max(0, total(sample) - total(samples[index])) / seconds : 0];
    });
    return { name, points };
  });
  const lag = history.inputs.map((name, index) => ({ name, points: samples.map((sample) => [sample.ago_ms, sample.inputs[index][0]]) }));
  drawPlot($("rate-plot"), { series: throughput, marks, span, format: rate, least: 1, what: "Events handled per second" });
  drawPlot($("lag-plot"), { series: lag, marks, span, format: (value) => (value ? duration(value) : "0"), least: 0.1, what: "Lag", top: niceSeconds });
  drawLegend($("rate-legend"), throughput.map(({ name }) => name));
  drawLegend($("lag-legend"), lag.map(({ name }) => name));
}

function showEvents({ events }) {
  const lines = [...events].reverse().slice(0, 12).map((event) => element("li", {},
    element("time", { textContent: event.ago_ms < 1000 ? "just now" : `${duration(event.ago_ms / 1000)} ago` }),
    element("span", { className: "of", textContent: event.input }),
    element("span", { className: `what${BAD.has(event.kind) ? " bad" : ""}`, textContent: event.text })));
  $("events").replaceChildren(...lines);
}

async function show() {
  try {
    const status = await ask("/status");
    if (Date.now() - remembered >= REMEMBER_EVERY) {
      history = await ask("/history");
      remembered = Date.now();
      showEvents(history);
      showPlots(status.graph, history);
    }
    write($("meta"), `version ${status.version}, up ${duration(status.uptime_seconds)}`);
    showVerdict(status);
    status.inputs.forEach((input) => showInput(input, status.inputs.length === 1));
    showGraph(status, history);
    showActions(status.actions);
  } catch (error) {
    $("verdict").dataset.state = "failing";
    write($("headline"), "Out of reach");
    write($("reason"), "This replica does not answer. What is below is what it said last.");
    if (last !== "out of reach") write($("live"), "Out of reach. This replica does not answer.");
    last = "out of reach";
    document.title = "Out of reach – dapper";
    console.info(error);
  }
}

async function letters() {
  try {
    showLetters(await ask("/letters"));
  } catch (error) {
    console.info(error);
  }
}

/** Again and again, one after the other, and not at all while nobody looks. */
async function forever(what, every) {
  for (;;) {
    if (!document.hidden) await what();
    await new Promise((resume) => { setTimeout(resume, every); });
  }
}

prepareActions(letters);
forever(show, ASK_EVERY);
forever(letters, 4 * ASK_EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) show(); });
