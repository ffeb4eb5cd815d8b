// The form that starts a run, and the page of a task.
import { badge, card, clearProblems, commandBox, doing, every, get, h, post, table } from "./dom.js";
import { makeForm } from "./form.js";
import { t } from "./texts.js";

const CHECK_MS = 400; // after the last key

export async function showStart(place, parameters) {
  const jobs = await get("jobs");
  const like = parameters.get("from");
  const source = like === null ? null : await get("run", { path: like });
  const job = h("select", { id: "job", onchange: () => open({}) }, jobs.map((one) => h("option", { value: one.name }, `${one.name}: ${one.help}`)));
  const name = h("input", { type: "text", id: "run-name", value: `run-${new Date().toISOString().slice(0, 16).replace(/[T:]/g, "-")}`,
    oninput: () => later(), spellcheck: "false" });
  const ranks = h("input", { type: "text", id: "ranks", inputmode: "numeric", value: "1", autocomplete: "off", oninput: () => later() });
  const formPlace = h("div"), problems = h("div", { class: "problem-list" }), yaml = h("pre", { class: "log yaml" }), plan = h("div");
  const start = h("button", { type: "button", id: "start", disabled: true, onclick: doing(async () => {
    const { task } = await post("start", content());
    window.location.hash = `#/task?id=${task}`;
  }) }, t("start"));
  const showPlan = h("button", { type: "button", id: "plan", class: "quiet", disabled: true, onclick: doing(async () => {
    const { task } = await post("plan", content());
    await watchPlan(task, plan);
  }) }, t("show_plan"));
  let form = null, timer = null;
  const content = () => ({ command: job.value, name: name.value, ranks: ranks.value, values: form.values() });
  const check = async () => {
    const found = await post("check", content());
    problems.replaceChildren(...found.problems.map((line) => h("p", { class: "bad" }, line)));
    if (!found.problems.length) problems.append(h("p", { class: "good" }, t("no_problems")));
    yaml.textContent = found.yaml;
    yaml.hidden = !found.yaml;
    start.disabled = showPlan.disabled = found.problems.length > 0;
    return found;
  };
  const later = () => {
    clearTimeout(timer);
    start.disabled = showPlan.disabled = true; // until the change is checked
    timer = setTimeout(check, CHECK_MS);
  };
  const open = async (values) => {
    clearProblems();
    form = await makeForm(job.value, values);
    form.onchange = later;
    formPlace.replaceChildren(form.element);
    await check();
  };
  place.append(h("h1", {}, t("page_start")),
    h("div", { class: "two" },
      h("div", {}, card(t("what"), field(t("job"), job), field(t("run_name"), name, t("run_name_text")), field(t("ranks"), ranks, t("ranks_text"))), card(t("settings"), formPlace)),
      h("div", { class: "sticky-side" }, card(t("before_start"), problems, yaml, h("p", { class: "buttons" }, showPlan, start), plan))));
  if (source?.job) {
    job.value = source.job;
    ranks.value = source.ranks ?? 1;
    name.value = `${source.path === "." ? source.name : source.path}-2`;
  }
  await open(source ? source.changed : {});
}

function field(text, input, help = "") {
  return h("div", { class: "field" }, h("label", { for: input.id }, text), input, help ? h("p", { class: "soft help" }, help) : null);
}

// The dry run: its lines as a table, or what it complains of.
async function watchPlan(task, place) {
  place.replaceChildren(h("p", { class: "soft" }, t("planning")));
  await every(1, async () => {
    if (place.dataset.task !== task && place.dataset.task) return;
    const about = await get("task", { task });
    if (["starting", "waiting", "running"].includes(about.state)) return;
    if (place.dataset.done === task) return;
    place.dataset.done = task;
    const lines = about.log.split("\n");
    const rows = Object.fromEntries(lines.filter((line) => line.startsWith("# ") && line.includes(": ")).map((line) => {
      const [key, ...rest] = line.slice(2).split(": ");
      return [key, rest.join(": ")];
    }));
    const bad = lines.filter((line) => /^(error|warning)/.test(line));
    place.replaceChildren(h("h3", {}, t("plan"), " ", badge(about.state)), ...bad.map((line) => h("p", { class: "bad" }, line)), table(rows));
    if (about.state !== "done" && !bad.length) place.append(h("pre", { class: "log" }, about.log));
  });
}

// A task, until there is more to see elsewhere.
export async function showTask(place, parameters) {
  const id = parameters.get("id") ?? "";
  const head = h("div"), log = h("pre", { class: "log tall" });
  place.append(head, card(t("log"), log));
  let isGone = false;
  await every(1.5, async () => {
    if (isGone) return;
    const task = await get("task", { task: id });
    const stop = h("button", { type: "button", class: "bad-button", onclick: doing(() => post("stop_task", { task: id })) }, t("stop"));
    const isOpen = ["waiting", "running"].includes(task.state);
    head.replaceChildren(h("h1", {}, `${t(`kind_${task.kind}`)} ${task.output_dir ?? task.model ?? ""} `, badge(task.state)),
      commandBox(task.command), h("p", { class: "buttons" }, isOpen ? stop : null));
    log.textContent = task.log || t("starting_text");
    if (task.kind === "train" && task.output_dir && task.state !== "failed") {
      const { runs } = await get("overview");
      const run = runs.find((one) => one.path === task.output_dir);
      if (run && (run.state === "running" || task.state === "done")) {
        isGone = true;
        window.location.replace(`#/run?${new URLSearchParams({ path: run.path })}`);
      }
    }
  });
}
