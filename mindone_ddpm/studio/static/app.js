// Which page is shown: the part of the address behind #.
import { get, h, leavePage, showProblems, Problems } from "./dom.js";
import { language, setLanguage, t } from "./texts.js";
import { showRuns } from "./runs.js";
import { showRun } from "./run.js";
import { showSample } from "./sample.js";
import { showCompare } from "./compare.js";
import { showStart, showTask } from "./start.js";
import { showInpaint } from "./inpaint.js";

const PAGES = { "": showRuns, run: showRun, sample: showSample, compare: showCompare, start: showStart, task: showTask,
  inpaint: showInpaint };
const IN_BAR = ["", "sample", "compare", "inpaint", "start"];

async function show() {
  leavePage();
  const [name, query] = window.location.hash.replace(/^#\/?/, "").split("?");
  const page = document.getElementById("page");
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  document.title = `${t(`page_${PAGES[name] ? name || "runs" : "runs"}`)} · mindone-ddpm`;
  document.getElementById("nav").replaceChildren(...IN_BAR.map((one) =>
    h("a", { href: `#/${one}`, class: one === name || (one === "" && name === "run") ? "here" : "" },
      t(`page_${one || "runs"}`))));
  const button = document.getElementById("language");
  button.textContent = language() === "zh" ? "English" : "中文";
  button.onclick = () => { setLanguage(language() === "zh" ? "en" : "zh"); show(); };
  page.replaceChildren();
  const place = h("div", { class: `page-${name || "runs"}` });
  page.append(place);
  try {
    await (PAGES[name] ?? showRuns)(place, new URLSearchParams(query ?? ""));
  } catch (error) {
    if (!(error instanceof Problems)) throw error;
    showProblems(error.list);
  }
  place.dataset.ready = "yes";
}

window.addEventListener("hashchange", () => { window.scrollTo(0, 0); show(); });
show();
