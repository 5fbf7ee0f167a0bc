// Filters: conditions that were typed, and the values of the hits as buttons.

import { el } from "./elements.js";

const VALUES = 10; // offered per field
const LONGEST = 40; // characters of a value that is offered

/** As people type it for `m3-vdb search --filter`; a field with a sign in its name needs the JSON form. */
function conditionOf(field, value) {
  if (!/^[^=<>!{\s][^=<>!]*$/.test(field)) return JSON.stringify({ [field]: value });
  const isWord = /^\p{L}[\p{L}\p{N}_-]*$/u.test(value) && !/^(true|false|null|none)$/i.test(value);
  return `${field}=${isWord ? value : JSON.stringify(value)}`;
}

export class Filters {
  chosen = []; // conditions, as the server reads them
  #fields = new Map(); // field → condition → { text, count }, of all hits so far: a filter hides values of others

  /** Shows itself in `place` and calls `changed` after a choice. */
  constructor(place, changed) {
    Object.assign(this, { place, changed });
  }

  choose(conditions) {
    this.chosen = [...new Set(conditions)];
    this.changed();
  }

  /** Count the values of these hits. */
  note(hits) {
    for (const values of this.#fields.values()) values.forEach((value) => (value.count = 0));
    for (const [field, given] of hits.flatMap(({ payload }) => Object.entries(payload))) {
      for (const value of [given].flat()) {
        const text = `${value}`;
        if (value === null || typeof value === "object" || text.length > LONGEST) continue;
        if (!this.#fields.has(field)) this.#fields.set(field, new Map());
        const values = this.#fields.get(field);
        const condition = conditionOf(field, value);
        values.set(condition, { text, count: (values.get(condition)?.count ?? 0) + 1 });
      }
    }
    this.show();
  }

  show() {
    const isChosen = (condition) => this.chosen.includes(condition);
    const known = new Set([...this.#fields.values()].flatMap((values) => [...values.keys()]));
    const typed = this.chosen.filter((condition) => !known.has(condition));
    const groups = [...this.#fields].map(([field, values]) => {
      const isTelling = values.size <= VALUES || [...values.values()].some(({ count }) => count > 1); // unlike dates or links
      const offered = [...values].filter(([condition]) => isTelling || isChosen(condition))
        .sort(([a, m], [b, n]) => isChosen(b) - isChosen(a) || n.count - m.count).slice(0, VALUES)
        .map(([condition, { text, count }]) => this.#button(condition, text, count || ""));
      return offered.length ? el("div.chips", {}, el("span", {}, field), ...offered) : "";
    });
    const focused = this.place.contains(document.activeElement) && document.activeElement.condition;
    if (typed.length) groups.unshift(el("div.chips", {}, ...typed.map((one) => this.#button(one, one, "×"))));
    this.place.replaceChildren(...groups);
    if (focused) [...this.place.querySelectorAll("button")].find((button) => button.condition === focused)?.focus();
  }

  #button(condition, text, note) {
    const isOn = this.chosen.includes(condition);
    const others = this.chosen.filter((one) => one !== condition);
    return el("button", { condition, ariaPressed: `${isOn}`, onclick: () => this.choose(isOn ? others : [...others, condition]) },
      el("span", { dir: "auto" }, text), note && el("small", {}, `${note}`));
  }
}
