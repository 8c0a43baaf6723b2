// What failed: parked events and dead letters, and what may be done with them.

const shown = new Map();
let token = null;
let refresh = () => {};

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text) {
  document.getElementById("result").textContent = text;
}

/** Asks for an action; the token goes in a header, which no other site's page can send. */
async function act(path, input, number) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify({ input, number }),
  });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) lock("That token is wrong.");
  return { ok: answer.ok, text: body.error ?? `it answered ${answer.status}` };
}

function button(text, label, isFirst, path, letter) {
  const made = element("button", { type: "button", textContent: text, className: isFirst ? "first" : "" });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      const { ok, text: reason } = await act(path, letter.input, letter.number);
      say(ok ? `${text} of ${letter.location} ${letter.key}: done.` : `${text} of ${letter.location} ${letter.key}: ${reason}`);
    } catch {
      say("This replica does not answer.");
    }
    made.disabled = false;
    refresh();
  });
  return made;
}

const KINDS = {
  parked: {
    title: "Parked", what: "tried again by themselves, in the order of their key",
    columns: ["Key", "Process", "Tries", "Next try", "Behind it", "Error"],
    cells: (letter) => [letter.process, letter.tries, time(letter.next), letter.behind, letter.error],
    acts: (letter) => [button("Retry now", `Retry now: parked event ${letter.number}, ${letter.location} ${letter.key}`, true, "/parked/retry", letter)],
  },
  dead_letters: {
    title: "Dead letters", what: "given up; retry or discard them",
    columns: ["Key", "Process", "Tries", "Since", "Error"],
    cells: (letter) => [letter.process, letter.tries, time(letter.since), letter.error],
    acts: (letter) => [
      button("Retry", `Retry dead letter ${letter.number}, ${letter.location} ${letter.key}`, true, "/dead-letters/retry", letter),
      button("Discard", `Discard dead letter ${letter.number}, ${letter.location} ${letter.key}`, false, "/dead-letters/discard", letter),
    ],
  },
};

function time(text) {
  return text ? text.replace("T", " ").replace("Z", "") : "";
}

/** Makes or updates a row; one that stays keeps its buttons, and whoever stands on one keeps his place. */
function row(kind, letter) {
  const id = `${kind}/${letter.input}/${letter.number}/${token !== null}`;
  const { columns, cells, acts } = KINDS[kind];
  let made = shown.get(id);
  if (!made) {
    made = element("tr", {}, element("th", { scope: "row" }));
    columns.slice(1).forEach((label) => {
      const cell = element("td", { className: label === "Error" ? "error" : "number" });
      if (label !== "Error") cell.dataset.label = label;
      made.append(cell);
    });
    if (token !== null) made.append(element("td", {}, element("div", { className: "acts" }, ...acts(letter))));
    shown.set(id, made);
  }
  const write = (cell, text) => {
    if (cell.textContent !== text) cell.textContent = text;
  };
  write(made.children[0], `${letter.location} ${letter.key}`);
  cells(letter).forEach((value, index) => write(made.children[index + 1], String(value)));
  return [id, made];
}

function table(kind, input, letters, most) {
  const { title, what, columns } = KINDS[kind];
  const id = `${kind}/${input}/${token !== null}`;
  let made = shown.get(id);
  if (!made) {
    const heads = [...columns, ...(token !== null ? ["Actions"] : [])].map((text) => element("th", { scope: "col", textContent: text }));
    const caption = element("caption", {}, `${title} `, element("small"));
    made = element("div", { className: "card table", tabIndex: 0 },
      element("table", {}, caption, element("thead", {}, element("tr", {}, ...heads)), element("tbody")));
    made.setAttribute("role", "region");
    made.setAttribute("aria-label", `${title} of ${input}`);
    shown.set(id, made);
  }
  const more = letters.length === most ? `; the oldest ${most} are shown` : "";
  const text = `of ${input}, ${what}${more}`;
  const small = made.querySelector("small");
  if (small.textContent !== text) small.textContent = text;
  const body = made.querySelector("tbody");
  const rows = letters.map((letter) => row(kind, letter)[1]);
  const isSame = rows.length === body.children.length && rows.every((one, index) => one === body.children[index]);
  if (!isSame) body.replaceChildren(...rows);
  return [id, made];
}

/** Shows what `/letters` answered. */
export function showLetters({ most, inputs }) {
  const parts = [];
  const used = new Set();
  for (const { id: input, error, ...lists } of inputs) {
    if (error) parts.push(element("p", { className: "card empty", textContent: `${input}: ${error}` }));
    for (const kind of Object.keys(KINDS)) {
      const letters = lists[kind] ?? [];
      if (!letters.length) continue;
      const [id, made] = table(kind, input, letters, most);
      parts.push(made);
      used.add(id);
      letters.forEach((letter) => used.add(row(kind, letter)[0]));
    }
  }
  if (!parts.length) parts.push(element("p", { className: "card empty", textContent: "Nothing is parked, and there are no dead letters." }));
  for (const id of shown.keys()) if (!used.has(id)) shown.delete(id);
  const into = document.getElementById("letters");
  const isSame = parts.length === into.children.length && parts.every((one, index) => one === into.children[index]);
  if (!isSame) into.replaceChildren(...parts);
}

function lock(text) {
  token = null;
  say(text);
  document.getElementById("unlock").hidden = false;
  document.getElementById("actions-note").textContent = "";
  refresh();
}

/** Prepares the form. The token is kept in this page's memory, and nowhere else. */
export function prepareActions(again) {
  refresh = again;
  const form = document.getElementById("unlock");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = document.getElementById("token");
    // A header holds ASCII alone.
    if (!/^[\x21-\x7e]+$/.test(field.value)) return say("That can't be a token.");
    token = field.value;
    field.value = "";
    form.hidden = true;
    say("");
    document.getElementById("actions-note").textContent = "Actions are unlocked until this page is closed.";
    refresh();
  });
}

/** Says whether there are actions at all. */
export function showActions(exist) {
  if (token !== null) return;
  document.getElementById("unlock").hidden = !exist;
  document.getElementById("actions-note").textContent =
    exist ? "" : "Read only: this replica was started without a token for actions.";
}
