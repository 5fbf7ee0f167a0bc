// Makes elements. Texts become text nodes, never HTML, whatever is in a document.

export const $ = (id) => document.getElementById(id);
export const number = (value) => value.toFixed(3);
export const label = (name) => name.replaceAll("_", "-");
export const spaced = (...parts) => parts.filter(Boolean).join(" · ");

/** el("p.note", { dir: "auto", "--color": "red" }, "text", child): properties with "--" are variables for CSS. */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("--")) element.style.setProperty(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}
