// The load of the machine.
import { card, every, get, gibibytes, h } from "./dom.js";
import { t } from "./texts.js";

export function machineBox() {
  const meters = h("div", { class: "meters" }), device = h("pre", { class: "log", hidden: true });
  every(3, async () => {
    const load = await get("machine");
    meters.replaceChildren(
      meter(t("processor", { n: load.cores }), load.processor_percent, 100, `${load.processor_percent.toFixed(0)} %`),
      meter(t("memory"), load.memory_used, load.memory_total, `${gibibytes(load.memory_used)} / ${gibibytes(load.memory_total)}`),
      meter(t("disk"), load.disk_total - load.disk_free, load.disk_total, t("free", { size: gibibytes(load.disk_free) })));
    device.hidden = !load.device;
    device.textContent = load.device;
  });
  return card(t("machine"), meters, device);
}

function meter(name, value, most, text) {
  return h("div", { class: "meter" }, h("span", {}, name), h("progress", { max: most, value, "aria-label": name }),
    h("span", { class: "soft" }, text));
}
