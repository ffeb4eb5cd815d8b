// Runs in one pair of axes, and models side by side from the same noise.
import { badge, card, chartFigure, commandBox, doing, every, get, h, picture, post } from "./dom.js";
import { chips, makeForm, modelChooser } from "./form.js";
import { t } from "./texts.js";

export async function showCompare(place, parameters) {
  const { runs } = await get("overview");
  const legend = h("div", { class: "legend" }), charts = h("div", { class: "charts" }), differences = h("div");
  let shown = "";
  const draw = async () => {
    const chosen = list.values();
    if (chosen.length < 2) {
      shown = "";
      legend.replaceChildren(h("p", { class: "soft" }, t("choose_two_runs")));
      charts.replaceChildren();
      differences.replaceChildren();
      return;
    }
    if (charts.querySelector(".chart-tip")) return;
    const found = await get("charts", { path: chosen });
    const now = JSON.stringify(found);
    if (now === shown) return;
    shown = now;
    legend.replaceChildren(...chosen.map((path, number) => h("span", {}, h("span", { class: `key c${number % 8}` }), path)));
    charts.replaceChildren(...found.figures.map(chartFigure));
    differences.replaceChildren(h("h3", {}, t("differences")), differenceTable(chosen, found.differences));
  };
  const wanted = parameters.getAll("run");
  const list = chips(runs.map((run) => ({ value: run.path, text: run.path === "." ? run.name : run.path })), wanted, true, () => draw());

  const models = await modelChooser(parameters.getAll("model"), true);
  const form = await makeForm("sample", { num_images: 4, seed: 0 });
  const groups = h("div", { class: "groups" });
  const button = h("button", { type: "button", id: "make", onclick: doing(async () => {
    const chosen = models.values();
    await post("sample", { models: chosen, values: form.values() });
    await updateGroups();
  }) }, t("make_images"));
  place.append(h("h1", {}, t("page_compare")),
    card(t("curves"), runs.length ? list.element : h("p", { class: "soft" }, t("no_runs")), legend, charts, differences),
    card(t("same_noise"), h("p", { class: "soft" }, t("same_noise_text")), models.element,
      h("details", {}, h("summary", {}, t("options")), form.element), h("p", {}, button)),
    groups);
  let before = "";
  const updateGroups = async () => {
    const tasks = (await get("tasks")).filter((task) => task.group);
    const now = JSON.stringify(tasks.map((task) => ({ ...task, seconds: 0 })));
    if (now === before) return;
    before = now;
    const byGroup = new Map();
    for (const task of tasks) byGroup.set(task.group, [task, ...(byGroup.get(task.group) ?? [])]);
    groups.replaceChildren(...[...byGroup.values()].map(groupCard));
  };
  await every(2, updateGroups);
  await every(5, draw);
}

function differenceTable(names, differences) {
  const rows = Object.entries(differences);
  if (!rows.length) return h("p", { class: "soft" }, t("no_differences"));
  return h("div", { class: "scroll" }, h("table", { class: "wide-table" },
    h("thead", {}, h("tr", {}, h("th"), names.map((name) => h("th", {}, name)))),
    h("tbody", {}, rows.map(([name, values]) => h("tr", {}, h("th", {}, name), values.map((value) => h("td", {}, value)))))));
}

function groupCard(tasks) {
  const most = Math.max(...tasks.map((task) => task.images.length), 0);
  const images = Array.from({ length: most }, (_, number) => number);
  return h("section", { class: "card group", "data-group": tasks[0].group },
    h("h2", {}, t("seed", { seed: tasks[0].seed }), " · ", new Date(tasks[0].created * 1000).toLocaleString()),
    h("div", { class: "scroll" }, h("table", { class: "side-by-side" },
      h("thead", {}, h("tr", {}, h("th"), tasks.map((task) => h("th", {}, task.model, " ", badge(task.state))))),
      h("tbody", {}, images.map((number) => h("tr", {}, h("th", {}, t("image_number", { n: number })),
        tasks.map((task) => h("td", {}, task.images[number]
          ? picture(task.images[number], `${task.model} · ${t("seed", { seed: task.seed })} · ${t("image_number", { n: number })}`, task.state) : "")))
      )))),
    tasks.filter((task) => task.state === "failed").map((task) => h("p", { class: "bad" }, `${task.model}: ${task.last_line}`)),
    h("details", {}, h("summary", {}, t("commands")), tasks.map((task) => commandBox(task.command))));
}
