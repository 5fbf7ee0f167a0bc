// Why a hit was found: its text with the matching tokens marked, and what each match adds.

import { el, label, number } from "./elements.js";

const MET = "multi_vector"; // each token of the question, with the most similar one of the text
const SHARED = "sparse"; // tokens that both have

/** Nodes for an answer of POST explain. A row of a table and the marks in the text know each other by their matches. */
export function explained({ document: text, parts, alignment, lexical, notes }, color) {
  const similarities = alignment.map((match) => match.similarity);
  const least = Math.min(...similarities);
  const range = Math.max(...similarities) - least || 1;
  const most = Math.max(...lexical.map((match) => match.product));
  const meter = (length, name) => el("span.meter", { "--color": color(name), "--length": `${100 * Math.max(length, 0)}%` });

  const met = alignment.map(({ query, document, similarity }) => ({
    tokens: [document],
    strength: (similarity - least) / range,
    cells: [shown(query), el("i", {}, "→"), shown(document), meter(similarity, MET), number(similarity)],
  }));
  const shared = lexical.map(({ query, document, product, query_weight, document_weight }) => ({
    tokens: document,
    isShared: true,
    cells: [shown(query[0]), el("i", {}, `${number(query_weight)} × ${number(document_weight)}`), el("i"),
      meter(product / most, SHARED), number(product)],
  }));
  const table = (name, meaning, matches) => el("section", {},
    el("h3", { "--color": color(name) }, `${label(name)} ${number(parts[name])}`),
    el("p.note", {}, meaning),
    el("div.matches", {}, ...matches.map((match) => el("div", { tabIndex: 0, pairs: [match] }, ...match.cells))));
  return [
    el("p", { dir: "auto", "--met": color(MET), "--shared": color(SHARED) }, ...marked(text, [...met, ...shared])),
    el("div.tables", {},
      table(MET, "Mean of the similarities: each token of the question, and the closest one here", met),
      table(SHARED, shared.length ? "Sum over shared tokens: weight × weight" : "No token is shared", shared)),
    ...notes.map((note) => el("p.note", {}, note)),
  ];
}

const shown = ({ text, piece }) => el("b", { dir: "auto" }, text || (piece === "</s>" ? "end of text" : "␣"));

/** A text as nodes, cut where a token begins or ends. Positions count characters as Python does, not UTF-16 units. */
function marked(text, matches) {
  const characters = Array.from(text);
  const spans = matches.flatMap((match) => match.tokens.map((token) => ({ ...token, match })));
  const cuts = [...new Set([0, characters.length, ...spans.flatMap(({ start, stop }) => [start, stop])])];
  cuts.sort((a, b) => a - b);
  return cuts.slice(1).map((stop, i) => {
    const start = cuts[i];
    const piece = characters.slice(start, stop).join("");
    const pairs = spans.filter((span) => span.start <= start && span.stop >= stop).map((span) => span.match);
    if (!pairs.length) return piece;
    const strength = Math.max(...pairs.map((match) => match.strength ?? -1));
    const className = pairs.some((match) => match.isShared) ? "shared" : "";
    return el("mark", { pairs, className, "--strength": strength < 0 ? "0%" : `${Math.round(10 + 40 * strength)}%` }, piece);
  });
}

/** Point at a row or at a mark: what belongs to it lights up. */
export function lightUp({ target }) {
  const chosen = target.closest(".matches > div, mark")?.pairs ?? [];
  for (const element of target.closest(".explanation")?.querySelectorAll(".matches > div, mark") ?? []) {
    element.classList.toggle("lit", element.pairs.some((match) => chosen.includes(match)));
  }
}
