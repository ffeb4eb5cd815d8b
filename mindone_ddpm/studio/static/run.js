// One run, while it goes on or afterwards.
import { badge, card, chartFigure, doing, duration, every, get, h, imageAddress, post, table } from "./dom.js";
import { machineBox } from "./machine.js";
import { progress } from "./runs.js";
import { t } from "./texts.js";

export async function showRun(place, parameters) {
  const path = parameters.get("path") ?? "";
  const head = h("div", { class: "run-head" }), facts = h("div"), charts = h("div", { class: "charts" });
  const slides = slideShow(), strip = h("div"), settings = h("div"), log = h("pre", { class: "log" });
  const logCard = card(t("log"), log), stripCard = card(t("denoising"), strip);
  place.append(head, h("div", { class: "two" }, h("div", {}, card(t("in_short"), facts)), slides.element),
    card(t("curves"), charts), stripCard, settings, logCard, machineBox());
  let points = -1, shownSettings = "", shownHead = "", isDrawing = false;

  await every(2, async () => {
    const run = await get("run", { path });
    const headNow = JSON.stringify([run.name, run.state, run.message, run.problem, run.step, run.total_steps, run.can_stop, run.resumable]);
    if (headNow !== shownHead) { shownHead = headNow; head.replaceChildren(...runHead(run)); }
    facts.replaceChildren(table(run.rows));
    slides.update(run.grids, run.updated);
    stripCard.hidden = !run.trajectory;
    const version = String(run.grids.length);
    if (run.trajectory && strip.dataset.version !== version) {
      strip.dataset.version = version;
      strip.replaceChildren(h("img", { src: imageAddress(run.trajectory, version), alt: t("denoising"), class: "wide" }));
    }
    const now = JSON.stringify([run.changed, run.defaults, run.versions]);
    if (now !== shownSettings) { shownSettings = now; settings.replaceChildren(...settingsOf(run)); }
    if (points !== run.points && !isDrawing && !charts.querySelector(".chart-tip")) {
      isDrawing = true;
      try {
        const found = await get("charts", { path });
        points = run.points;
        charts.replaceChildren(...found.figures.map(chartFigure));
        if (!found.figures.length) charts.append(h("p", { class: "soft" }, t("no_curves")));
      } finally {
        isDrawing = false;
      }
    }
    await updateLog(log, run);
  });
}

async function updateLog(log, run) {
  if (!run.task) {
    log.textContent = t("log_elsewhere");
    return;
  }
  const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
  log.textContent = (await get("log", { task: run.task })).text;
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function runHead(run) {
  const chosen = new URLSearchParams({ model: run.path });
  const stop = h("button", { type: "button", class: "bad-button", onclick: doing(() => post("stop", { path: run.path })) }, t("stop"));
  const resume = h("button", { type: "button", onclick: doing(async () => {
    const { task } = await post("resume", { path: run.path });
    window.location.hash = `#/task?id=${task}`;
  }) }, t("resume"));
  return [
    h("h1", {}, run.name, " ", badge(run.state)),
    progress(run),
    h("p", { class: "soft" }, [run.job, run.rate && run.state === "running" ? t("rate", { n: run.rate.toPrecision(3) }) : "",
      run.skips ? t("skips", { n: run.skips }) : "",
      run.seconds_left ? t("left", { time: duration(run.seconds_left) }) : ""].filter((one) => one).join(" · ")),
    run.problem || run.message ? h("p", { class: "bad" }, run.problem || run.message) : null,
    h("p", { class: "buttons" },
      run.can_stop ? stop : null,
      !run.can_stop && run.resumable && run.state !== "running" && run.state !== "finished" ? resume : null,
      run.saved ? h("a", { class: "button", href: `#/sample?${chosen}` }, t("sample_it")) : null,
      h("a", { class: "button quiet", href: `#/compare?${new URLSearchParams({ run: run.path })}` }, t("compare_it")),
      h("a", { class: "button quiet", href: `#/start?${new URLSearchParams({ from: run.path })}` }, t("start_like_it"))),
  ].filter((one) => one);
}

function settingsOf(run) {
  const others = Object.keys(run.defaults).length;
  return [card(t("settings"),
    Object.keys(run.changed).length ? h("h3", {}, t("changed")) : null,
    table(run.changed),
    others ? h("details", {}, h("summary", {}, t("defaults", { n: others })), table(run.defaults)) : null,
    h("details", {}, h("summary", {}, t("versions")), table(run.versions)))];
}

// Images over the steps, one at a time.
function slideShow() {
  const image = h("img", { class: "wide", alt: "" }), name = h("output"), box = card(t("samples"));
  const range = h("input", { type: "range", min: 0, "aria-label": t("samples") });
  let grids = [], version = "";
  const draw = () => {
    const chosen = grids[Number(range.value)];
    if (!chosen) return;
    const address = imageAddress(chosen.path, version);
    if (image.getAttribute("src") !== address) image.setAttribute("src", address);
    name.textContent = chosen.name;
    image.alt = chosen.name;
  };
  range.addEventListener("input", draw);
  box.append(h("p", { class: "slider" }, range, name), image);
  box.hidden = true;
  return {
    element: box,
    update(found, updated) {
      const wasLast = !grids.length || Number(range.value) === grids.length - 1;
      const changed = found.length !== grids.length;
      if (!changed) return;
      version = String(updated);
      grids = found;
      box.hidden = !grids.length;
      range.max = Math.max(0, grids.length - 1);
      if (wasLast) range.value = range.max;
      draw();
    },
  };
}
