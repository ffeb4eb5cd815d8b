// Elements, requests, and updates of the page that is shown.
import { t } from "./texts.js";

// An element. Text is set as text: nothing that a file or a run is called becomes markup.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export class Problems extends Error {
  constructor(list) {
    super(list.join("\n"));
    this.list = list;
  }
}

async function answer(response) {
  let content = null;
  try {
    content = await response.json();
  } catch {
    content = { problems: [t("unexpected", { status: response.status })] };
  }
  if (!response.ok) throw new Problems(content.problems ?? [t("unexpected", { status: response.status })]);
  return content;
}

export async function get(name, parameters = {}) {
  const pairs = Object.entries(parameters).flatMap(([key, value]) => [value].flat().map((one) => [key, one]));
  return answer(await fetch(`api/${name}?${new URLSearchParams(pairs)}`));
}

export async function post(name, body) {
  const headers = { "Content-Type": "application/json", "X-Studio": "1" };
  return answer(await fetch(`api/${name}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

export const imageAddress = (path, version = "") => `api/image?${new URLSearchParams({ path, v: version })}`;

// Updates end when another page is shown.
let timers = [];
export function leavePage() {
  timers.forEach((timer) => { timer.ended = true; });
  timers = [];
}

// Call an update now and again; a studio that does not answer is said so, and asked again.
export function every(seconds, update) {
  const timer = { ended: false };
  timers.push(timer);
  const run = async () => {
    if (timer.ended) return;
    if (!document.hidden) {
      try {
        await update();
        if (!timer.ended) setLost(false);
      } catch (error) {
        if (error instanceof Problems) { if (!timer.ended) showProblems(error.list); }
        else if (error instanceof TypeError && /fetch|network/i.test(error.message)) setLost(true);
        else throw error;
      }
    }
    if (!timer.ended) setTimeout(run, seconds * 1000);
  };
  return run();
}

function setLost(isLost) {
  const place = document.getElementById("lost");
  place.hidden = !isLost;
  place.textContent = isLost ? t("lost_connection") : "";
}

export function showProblems(list) {
  let box = document.getElementById("problems");
  if (!box) {
    box = h("div", { id: "problems", class: "problems", role: "alert" });
    document.getElementById("page").prepend(box);
  }
  box.replaceChildren(...list.map((line) => h("p", {}, line)));
}

export function clearProblems() {
  document.getElementById("problems")?.remove();
}

// Do something that can be refused, with the button greyed meanwhile.
export function doing(action) {
  return async (event) => {
    const button = event?.currentTarget;
    clearProblems();
    if (button) button.disabled = true;
    try {
      await action(event);
    } catch (error) {
      if (!(error instanceof Problems)) throw error;
      showProblems(error.list);
      window.scrollTo({ top: 0, behavior: "smooth" });
    } finally {
      if (button) button.disabled = false;
    }
  };
}

export function table(rows, className = "") {
  return h("table", { class: className }, h("tbody", {}, Object.entries(rows).map(([name, value]) =>
    h("tr", {}, h("th", {}, name), h("td", {}, value)))));
}

export function card(title, ...content) {
  return h("section", { class: "card" }, title ? h("h2", {}, title) : null, ...content);
}

export function badge(state) {
  return h("span", { class: `badge ${state}` }, t(`state_${state}`));
}

export function commandBox(command) {
  const button = h("button", { type: "button", class: "small", onclick: async () => {
    try {
      await navigator.clipboard.writeText(command);
    } catch {
      const area = h("textarea", {}, command);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = t("copied");
    setTimeout(() => { button.textContent = t("copy"); }, 1500);
  } }, t("copy"));
  return h("div", { class: "command" }, h("code", {}, command), button);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.max(0, Math.round(seconds))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 60 * 48) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return t("days", { n: Math.round(minutes / 1440) });
}

export const gibibytes = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

// SVG that the studio has made itself, with all names escaped.
export function chartFigure(figure) {
  const box = h("figure", {}, h("figcaption", {}, figure.title));
  const template = document.createElement("template");
  template.innerHTML = figure.svg;
  box.append(template.content);
  box.querySelectorAll("svg[data-chart]").forEach((svg) => window.showValues(svg));
  return box;
}

// An image that opens large.
export function picture(path, caption, version = "", attributes = {}) {
  const address = imageAddress(path, version);
  const open = () => {
    const dialog = h("dialog", { class: "large", onclick: () => dialog.close(), onclose: () => dialog.remove() },
      h("img", { src: address, alt: caption }), h("p", {}, caption));
    document.body.append(dialog);
    dialog.showModal();
  };
  return h("figure", { class: "picture", ...attributes },
    h("button", { type: "button", class: "plain", onclick: open, "aria-label": caption },
      h("img", { src: address, alt: caption, loading: "lazy" })),
    h("figcaption", {}, caption));
}
