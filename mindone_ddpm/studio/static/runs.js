// The list of runs, and what is being done now.
import { badge, card, duration, every, get, h, imageAddress } from "./dom.js";
import { machineBox } from "./machine.js";
import { t } from "./texts.js";

export async function showRuns(place) {
  const list = h("div", { class: "runs" }), head = h("p", { class: "soft" }), tasks = h("div");
  place.append(h("h1", {}, t("page_runs")), head, list, tasks, machineBox());
  let before = "";
  await every(3, async () => {
    const found = await get("overview");
    head.textContent = found.folder;
    const now = JSON.stringify([found.runs, found.tasks.map((task) => [task.id, task.state, task.last_line])]);
    if (now === before) return;
    before = now;
    const runs = [...found.runs].sort((a, b) => b.updated - a.updated);
    list.replaceChildren(...runs.map(runCard));
    if (!runs.length) list.append(emptyCard());
    const open = found.tasks.filter((task) => ["starting", "waiting", "running"].includes(task.state));
    tasks.replaceChildren();
    if (open.length) tasks.append(card(t("going_on"), h("ul", { class: "tasks" }, open.map((task) =>
      h("li", {}, h("a", { href: `#/task?id=${task.id}` }, `${t(`kind_${task.kind}`)} ${task.model ?? task.output_dir ?? ""}`), " ",
        badge(task.state), " ", h("span", { class: "soft" }, task.last_line))))));
  });
}

function emptyCard() {
  return card(t("no_runs"), h("p", {}, t("no_runs_text")), h("p", {}, h("a", { class: "button", href: "#/start" }, t("page_start"))));
}

function runCard(run) {
  const address = `#/run?${new URLSearchParams({ path: run.path })}`;
  const facts = [
    run.loss === null ? null : `${t("loss")} ${run.loss.toPrecision(4)}`,
    run.rate && run.state === "running" ? t("rate", { n: run.rate.toPrecision(3) }) : null,
    run.skips ? t("skips", { n: run.skips }) : null,
    run.seconds_left ? t("left", { time: duration(run.seconds_left) }) : null,
    run.updated ? new Date(run.updated * 1000).toLocaleString() : null,
  ].filter((one) => one);
  return h("a", { class: "card run", href: address },
    run.grid ? h("img", { src: imageAddress(run.grid, run.updated), alt: "", loading: "lazy" }) : h("div", { class: "no-image" }),
    h("div", { class: "about" },
      h("h2", {}, run.name), badge(run.state), h("span", { class: "soft" }, ` ${run.job}`),
      progress(run),
      h("p", { class: "soft" }, facts.join(" · ")),
      run.problem || run.message ? h("p", { class: "bad" }, run.problem || run.message) : null));
}

export function progress(run) {
  const total = run.total_steps || run.step;
  const text = run.total_steps ? t("step_of", { step: run.step.toLocaleString(), total: run.total_steps.toLocaleString() })
    : t("step", { step: run.step.toLocaleString() });
  return h("div", { class: "progress" }, h("progress", { max: total || 1, value: run.step, "aria-label": text }), h("span", {}, text));
}
