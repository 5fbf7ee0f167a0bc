// The search page of m3-vdb: one state, and show() makes the page look like it.
//
//   question, filters, boosts, source → POST search → hits with the parts of their scores → show()
//   weights                   → show() at once, from these parts; POST search when the slider rests
//   an opened hit             → POST explain → its text, with the matching tokens marked
//
// The parts of a score, their weights and the sources of candidates are the server's (GET info); no part is named here.

import { $, el, label, number, spaced } from "./elements.js";
import { explained, lightUp } from "./explanation.js";
import { Filters } from "./filters.js";

const FETCHED = 50; // hits that sliders can re-rank without the server
const SHOWN = 10;
const COLORS = 6; // --part-0 … in page.css
const PAUSE = 250; // milliseconds without a key or a move of a slider, until the server is asked

const state = { info: null, question: "", hits: [], weights: {}, shown: SHOWN, took: 0 };
const filters = new Filters($("filters"), search);
const cards = new Map(); // hit → its element, so that open hits stay open while they move

const color = (name) => `var(--part-${(Object.keys(state.weights).indexOf(name) + COLORS) % COLORS})`;
const boosts = () => $("boosts").value.split(",").map((one) => one.trim()).filter(Boolean);

// --- the server ---

/** Ask an endpoint; without a body it is GET. */
async function ask(path, body, signal) {
  const key = sessionStorage.getItem("key");
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) },
    body: body && JSON.stringify(body),
    signal,
  }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server does not answer.");
  });
  if (response.status === 401) {
    await askKey(key ? "The server refuses this key." : "Kept until this tab is closed.");
    return ask(path, body, signal);
  }
  const answer = await response.json().catch(() => ({ error: `The answer is not JSON (status ${response.status}).` }));
  if (answer.error) throw new Error(answer.error);
  return answer;
}

function askKey(note) {
  const dialog = $("key");
  if (!dialog.open) {
    dialog.returnValue = "";
    $("secret").value = "";
    $("note").textContent = note;
    dialog.showModal();
  }
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      if (!dialog.returnValue) return reject(new Error("This server needs a key."));
      sessionStorage.setItem("key", $("secret").value);
      resolve();
    }, { once: true });
  });
}

let running = new AbortController();
let waiting;

/** Search after a pause, so that not every key and not every step of a slider is a request. */
function searchSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(search, PAUSE);
}

async function search() {
  clearTimeout(waiting);
  running.abort(); // the server drops what it has not begun
  running = new AbortController();
  const { signal } = running;
  const question = $("question").value.trim();
  if (!state.info) return;
  writeAddress(question);
  filters.show();
  if (!question || !state.info.documents) return showNothing();
  const begun = performance.now();
  $("hits").ariaBusy = "true";
  try {
    const { hits } = await ask("search", {
      query: question,
      limit: FETCHED,
      weights: state.weights,
      source: $("source").value,
      filter: filters.chosen,
      boosts: boosts(),
      explain: true,
    }, signal);
    if (question !== state.question) {
      cards.clear();
      state.shown = SHOWN;
    }
    Object.assign(state, { hits, question, took: performance.now() - begun });
    filters.note(hits);
    show();
  } catch (error) {
    if (error.name !== "AbortError") showNothing(error);
  } finally {
    if (!signal.aborted) $("hits").ariaBusy = "false";
  }
}

// --- the hits ---

/** What each part adds to the score: [[name, weight × part], …]; boosts have their weights in them. */
const shares = (hit) => Object.entries(hit.parts).map(([name, part]) => [name, (state.weights[name] ?? 1) * part]);
const score = (hit) => shares(hit).reduce((sum, [, share]) => sum + share, 0);
const reach = (hit) => shares(hit).reduce((sum, [, share]) => sum + Math.max(share, 0), 0);

/** Show the hits in the order of the weights as they are now. */
function show() {
  const ranked = state.hits.map((hit) => [score(hit), hit]).sort(([a], [b]) => b - a);
  const longest = Math.max(...state.hits.map(reach)) || 1;
  const elements = ranked.slice(0, state.shown).map(([, hit]) => {
    const name = JSON.stringify([hit.id, hit.passage?.number]);
    if (!cards.has(name)) cards.set(name, makeCard(hit));
    showScore(cards.get(name), hit, longest);
    return cards.get(name);
  });
  moveTo($("hits"), elements);
  $("more").hidden = state.hits.length <= state.shown;
  $("message").replaceChildren(...(state.hits.length ? [] : [nothingFound()]));
  const count = state.hits.length === FETCHED ? `best ${FETCHED} hits` : `${state.hits.length} hits`;
  $("status").textContent = state.hits.length ? `${count} · ${Math.round(state.took)} ms` : "";
}

/** Replace the children of a list; those that stay glide to their new places. */
function moveTo(list, elements) {
  const top = new Map([...list.children].map((child) => [child, child.getBoundingClientRect().top]));
  const focused = list.contains(document.activeElement) && document.activeElement;
  list.replaceChildren(...elements);
  if (focused) focused.focus({ preventScroll: true });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const element of elements) {
    const distance = top.get(element) - element.getBoundingClientRect().top;
    if (distance) element.animate([{ transform: `translateY(${distance}px)` }, {}], { duration: 180, easing: "ease-out" });
  }
}

function makeCard(hit) {
  const place = hit.passage && `passage ${hit.passage.number} of ${hit.passage.count}`;
  const payload = Object.entries(hit.payload).map(([field, value]) =>
    el("span", {}, `${field} `, el("b", { dir: "auto" }, typeof value === "object" ? JSON.stringify(value) : `${value}`)));
  const explanation = el("div.explanation");
  const details = el("details", {},
    el("summary", {},
      el("h2", { dir: "auto" }, hit.title || hit.id),
      el("b.score"),
      el("p.snippet", { dir: "auto" }, hit.text),
      el("div.bar", { ariaHidden: "true" }),
      el("p.shares"),
      el("p.facts", {}, ...payload, spaced(hit.title && hit.id, place))),
    explanation);
  details.addEventListener("toggle", () => {
    if (details.open && !explanation.firstChild) explain(hit, explanation);
  });
  return el("li", {}, details);
}

/** Bars that add up: a negative share takes its length back from the end of the others, hatched. */
function showScore(card, hit, longest) {
  const segments = shares(hit).sort(([, a], [, b]) => (a < 0) - (b < 0));
  card.querySelector(".score").textContent = number(score(hit));
  card.querySelector(".bar").replaceChildren(...segments.map(([name, share]) =>
    el(share < 0 ? "i.negative" : "i", { "--color": color(name), "--length": `${(100 * Math.abs(share)) / longest}%` })));
  card.querySelector(".shares").replaceChildren(...shares(hit).map(([name, share]) =>
    share ? el("span", { "--color": color(name) }, `${label(name)} ${number(share)}`) : ""));
}

async function explain(hit, place) {
  place.replaceChildren(el("p", { dir: "auto" }, hit.text), el("p.note", {}, "Comparing tokens …"));
  try {
    const answer = await ask("explain", { query: state.question, id: hit.id, passage: hit.passage });
    place.replaceChildren(...explained(answer, color));
  } catch (error) {
    place.replaceChildren(el("p.note", {}, error.message));
    place.parentElement.addEventListener("toggle", () => place.replaceChildren(), { once: true }); // open it again to retry
  }
}

// --- weights and filters ---

function showWeights() {
  const presets = Object.entries(state.info.weights);
  const most = 2 * Math.max(...presets.flatMap(([, weights]) => Object.values(weights)));
  const rows = Object.entries(state.weights).map(([name, weight]) => {
    const output = el("output", {}, `${weight}`);
    const move = ({ target }) => {
      state.weights[name] = Number(target.value);
      output.textContent = target.value;
      showPreset();
      if (state.hits.length) show();
      searchSoon();
    };
    const slider = el("input", { type: "range", min: 0, max: most, step: 0.05, value: weight, oninput: move });
    return el("label", { "--color": color(name) }, el("span", {}, label(name)), slider, output);
  });
  $("weights").replaceChildren(...rows);
  showPreset();
}

function showPreset() {
  const names = Object.keys(state.weights);
  const [chosen] = Object.entries(state.info.weights).find(([, preset]) =>
    names.every((name) => preset[name] === state.weights[name])) ?? ["custom"];
  $("preset").value = chosen;
}

// --- when there is nothing to show ---

function showNothing(error) {
  Object.assign(state, { hits: [], question: "" });
  cards.clear();
  $("hits").replaceChildren();
  $("more").hidden = true;
  $("status").textContent = "";
  $("message").replaceChildren(error ? failure(error) : invitation());
}

function failure(error) {
  const retry = el("button", { onclick: () => (state.info ? search() : start()) }, "Try again");
  return el("div.error", { role: "alert" }, el("p", {}, error.message), retry, unfilter());
}

const nothingFound = () => el("div", {}, el("p", {}, "No document was found."), unfilter());
const unfilter = () =>
  (filters.chosen.length ? el("button", { onclick: () => filters.choose([]) }, "Remove the filters") : "");

const advice = (text, command) => el("div", {}, el("p", {}, text), el("code", {}, command));

function invitation() {
  if (state.info.documents === null) {
    return advice("This server has no collection to search. Start it with one:", "m3-vdb serve --store ./notes.qdrant");
  }
  if (state.info.documents === 0) {
    return advice("The collection is empty. Fill it, then load this page again:", "m3-vdb ingest corpus.jsonl --store …");
  }
  const keys = [["/", "question"], ["↓ ↑", "hits"], ["Enter", "why a hit was found"], ["Esc", "back"]];
  return el("div", {}, el("p", {}, "Questions and documents may be in different languages."),
    el("p", { id: "shortcuts" }, ...keys.flatMap(([key, use]) => [el("kbd", {}, key), ` ${use} \u2003`])));
}

// --- keyboard, address, beginning ---

function press(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || $("key").open) return;
  const { key, target } = event;
  const question = $("question");
  const details = target.closest("#hits li")?.firstChild;
  const step = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (key === "/" && !target.matches("input:not([type=range])")) {
    question.focus();
    question.select();
  } else if (step && (details || target === question)) {
    const stops = [question, ...$("hits").querySelectorAll("summary")];
    stops[stops.indexOf(details?.firstChild ?? question) + step]?.focus();
  } else if (key === "Escape" && details) {
    (details.open ? details.firstChild : question).focus();
    details.open = false;
  } else if (key === "Escape" && target === question) {
    question.value = "";
    search();
  } else return;
  event.preventDefault();
}

/** Keep the search behind the #, which is not sent to servers, so that it can be linked. */
function writeAddress(question) {
  const address = new URLSearchParams(question && { q: question });
  for (const condition of filters.chosen) address.append("filter", condition);
  for (const boost of boosts()) address.append("boost", boost);
  for (const [name, weight] of Object.entries(state.weights)) {
    if (weight !== state.info.weights.default[name]) address.set(name, weight);
  }
  if ($("source").selectedIndex > 0) address.set("source", $("source").value);
  history.replaceState(null, "", `#${address}`);
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  $("question").value = address.get("q") ?? $("question").value; // which may be typed before the server answered
  filters.chosen = address.getAll("filter");
  $("boosts").value = address.getAll("boost").join(", ");
  for (const [name, weight] of Object.entries(state.info.weights.default)) {
    const given = Number.parseFloat(address.get(name));
    state.weights[name] = given >= 0 ? given : weight;
  }
  const source = address.get("source");
  $("source").value = state.info.sources.includes(source) ? source : state.info.sources[0];
  showWeights();
  search();
}

async function start() {
  try {
    state.info = await ask("info");
  } catch (error) {
    return showNothing(error);
  }
  const { documents, model_id, sources, weights } = state.info;
  $("collection").textContent = spaced(documents !== null && `${documents.toLocaleString("en")} documents`, model_id);
  $("question").disabled = !documents;
  $("settings").hidden = !documents;
  $("source").replaceChildren(...sources.map((name) => el("option", {}, name)));
  $("preset").replaceChildren(...[...Object.keys(weights), "custom"].map((name) => el("option", {}, name)));
  readAddress();
}

$("settings").open = matchMedia("(min-width: 56rem)").matches;
$("question").oninput = searchSoon;
$("ask").onsubmit = () => search();
$("add").onsubmit = () => {
  const condition = $("condition").value.trim();
  $("condition").value = "";
  if (condition) filters.choose([...filters.chosen, condition]);
};
$("preset").onchange = () => {
  Object.assign(state.weights, state.info.weights[$("preset").value]);
  showWeights();
  search();
};
$("source").onchange = $("boosts").onchange = search;
$("more").onclick = () => {
  state.shown = FETCHED;
  show();
};
const { dataset } = document.documentElement;
dataset.theme = localStorage.getItem("theme") ?? "";
$("theme").onclick = () => {
  const isDark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", (dataset.theme = isDark ? "light" : "dark"));
};
$("hits").onpointerover = lightUp;
addEventListener("focusin", lightUp);
addEventListener("submit", (event) => event.target.method === "dialog" || event.preventDefault());
addEventListener("keydown", press);
addEventListener("hashchange", readAddress);
start();
