// Sampling, and the gallery of all that was made.
import { badge, card, clearProblems, commandBox, doing, every, get, h, picture, post } from "./dom.js";
import { additions, makeForm, modelChooser } from "./form.js";
import { t } from "./texts.js";

export async function showSample(place, parameters) {
  const models = await modelChooser(parameters.getAll("model"), false);
  const form = await makeForm("sample", { num_images: 4 });
  await additions(form, "lora", ":1");
  await additions(form, "embedding", "");
  const button = h("button", { type: "button", id: "make", onclick: doing(async () => {
    clearProblems();
    await post("sample", { models: models.values(), values: form.values() });
    await update();
  }) }, t("make_images"));
  const gallery = h("div", { class: "gallery" });
  place.append(h("h1", {}, t("page_sample")),
    h("div", { class: "two form-and-gallery" },
      h("div", {}, card(t("model"), models.element), card(t("options"), form.element, h("p", { class: "sticky" }, button))),
      h("div", {}, gallery)));
  const update = makeGallery(gallery, (task) => ["sample", "inpaint"].includes(task.kind), t("gallery_empty"));
  await every(2, update);
}

// Cards of tasks, of which only those that have changed are made again.
export function makeGallery(gallery, isWanted, emptyText) {
  const shown = new Map();
  return async () => {
    const tasks = (await get("tasks")).filter(isWanted);
    for (const id of [...shown.keys()]) {
      if (!tasks.some((task) => task.id === id)) { shown.get(id).element.remove(); shown.delete(id); }
    }
    tasks.forEach((task, place) => {
      const now = JSON.stringify({ ...task, seconds: 0 }), before = shown.get(task.id);
      let element = before?.element;
      if (before?.text !== now) {
        element = taskCard(task);
        before?.element.replaceWith(element);
        shown.set(task.id, { text: now, element });
      }
      if (gallery.children[place] !== element) gallery.insertBefore(element, gallery.children[place] ?? null);
    });
    gallery.querySelector(".empty")?.remove();
    if (!tasks.length) gallery.append(h("p", { class: "soft empty" }, emptyText));
  };
}

export function captionOf(task, place) {
  const prompt = task.prompts ? ` · ${task.prompts[Math.min(place, task.prompts.length - 1)]}` : "";
  return `${t("seed", { seed: task.seed })} · ${t("image_number", { n: place })}${task.prompts?.length === 1 ? prompt : ""}`;
}

function taskCard(task) {
  const isOpen = ["starting", "waiting", "running"].includes(task.state);
  const stop = h("button", { type: "button", class: "small", onclick: doing(() => post("stop_task", { task: task.id })) }, t("stop"));
  const log = h("pre", { class: "log" });
  const details = h("details", { ontoggle: async () => {
    if (details.open) log.textContent = (await get("task", { task: task.id })).log;
  } }, h("summary", {}, t("log")), log);
  return h("section", { class: "card task", "data-task": task.id, "data-state": task.state },
    h("h2", {}, task.model ?? task.id, " ", badge(task.state), isOpen ? stop : null),
    h("p", { class: "soft" }, t(`kind_${task.kind}`), " · ", new Date(task.created * 1000).toLocaleString()),
    task.state === "done" ? null : h("p", { class: task.state === "failed" ? "bad" : "soft" }, task.last_line),
    h("div", { class: "pictures" }, task.images.map((path, place) =>
      h("div", {}, picture(path, captionOf(task, place), task.state),
        h("a", { class: "small-link", href: `#/inpaint?${new URLSearchParams({ image: path, model: task.model })}` }, t("page_inpaint"))))),
    task.state === "done" ? commandBox(task.command) : null,
    details);
}
