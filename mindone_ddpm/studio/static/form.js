// A form made of a command's settings.
import { get, h } from "./dom.js";
import { t, label } from "./texts.js";

let count = 0;

// {element, values(), set(values), onchange}. What is left empty keeps its default.
export async function makeForm(command, initial = {}) {
  const fields = await get("fields", { command });
  const inputs = new Map();
  const form = { element: h("div", { class: "form" }), onchange: () => {} };
  const changed = () => form.onchange();
  const first = fields.filter((field) => field.first), others = fields.filter((field) => !field.first);
  form.element.append(h("div", { class: "fields" }, first.map((field) => row(field, inputs, changed))));
  const groups = new Map();
  for (const field of others) groups.set(field.heading, [...(groups.get(field.heading) ?? []), field]);
  if (others.length) {
    form.element.append(h("details", { class: "more" }, h("summary", {}, t("more_settings", { n: others.length })),
      [...groups].map(([heading, members]) => h("details", {}, h("summary", {}, heading),
        h("div", { class: "fields" }, members.map((field) => row(field, inputs, changed)))))));
  }
  form.values = () => {
    const values = {};
    for (const [name, { field, input }] of inputs) {
      const value = input.value.trim();
      if (value === "") continue;
      values[name] = field.type === "list" ? value.split("\n").map((line) => line.trim()).filter((line) => line) : value;
    }
    return values;
  };
  form.set = (values) => {
    for (const [name, value] of Object.entries(values)) {
      if (!inputs.has(name)) continue;
      const { input } = inputs.get(name);
      input.value = value === null ? "" : Array.isArray(value) ? value.join("\n") : String(value);
    }
  };
  form.set(initial);
  return form;
}

function row(field, inputs, changed) {
  const id = `field-${field.name}-${count += 1}`;
  const shown = field.default === null || field.default === "" ? "" : String(field.default);
  const common = { id, name: field.name, oninput: changed };
  let input;
  if (field.type === "bool" || (field.choices.length && !field.several)) {
    const choices = field.type === "bool" ? ["true", "false"] : field.choices;
    const names = { true: t("yes"), false: t("no") };
    const standard = shown ? t("default_is", { value: names[shown] ?? shown }) : t("default");
    input = h("select", common, h("option", { value: "" }, standard),
      choices.map((one) => h("option", { value: one }, names[one] ?? one)));
  } else if (field.type === "list") {
    input = h("textarea", { ...common, rows: 2, placeholder: t("one_a_line") });
  } else {
    const numeric = ["int", "float"].includes(field.type);
    input = h("input", { ...common, type: "text", inputmode: numeric ? "decimal" : null, placeholder: shown, autocomplete: "off",
      spellcheck: "false" });
  }
  inputs.set(field.name, { field, input });
  return h("div", { class: "field" }, h("label", { for: id }, label(field.name), h("code", {}, field.name)), input,
    h("p", { class: "soft help" }, field.help));
}

// Buttons that add what the folder holds to a field of a form.
export async function additions(form, kind, suffix) {
  const found = (await get("models")).filter((model) => model.kind === kind);
  const area = form.element.querySelector(`[name=${kind}]`);
  if (!found.length || !area) return;
  area.closest(".field").append(h("div", { class: "chips" }, found.map((model) => h("button", { type: "button", class: "small", onclick: () => {
    area.value = [area.value.trim(), `${model.path}${suffix}`].filter((line) => line).join("\n");
    form.onchange();
  } }, `+ ${model.path}`))));
}

// Chips to choose one or several of.
export function chips(choices, chosen, isSeveral, onchange) {
  const box = h("div", { class: "chips" });
  const name = `chips-${count += 1}`;
  for (const { value, text } of choices) {
    const input = h("input", { type: isSeveral ? "checkbox" : "radio", name, value, checked: chosen.includes(value), onchange });
    box.append(h("label", { class: "chip" }, input, h("span", {}, text)));
  }
  return { element: box, values: () => [...box.querySelectorAll("input:checked")].map((input) => input.value) };
}

// The models of the folder, and a field for any other.
export async function modelChooser(chosen, isSeveral, onchange = () => {}, kinds = ["pipeline", "checkpoint"]) {
  const models = (await get("models")).filter((model) => kinds.includes(model.kind));
  const known = models.map((model) => model.path);
  const others = chosen.filter((one) => !known.includes(one));
  const picked = chosen.length ? chosen : isSeveral ? [] : known.slice(0, 1);
  const list = chips(models.map((model) => ({ value: model.path, text: model.path === "." ? t("this_folder") : model.path })), picked,
    isSeveral, onchange);
  const other = h("input", { type: "text", placeholder: t("other_model"), value: others.join(" "), "aria-label": t("other_model"),
    oninput: onchange, spellcheck: "false" });
  const element = h("div", { class: "models" }, list.element, models.length ? null : h("p", { class: "soft" }, t("no_models")), other);
  return { element, values: () => {
    const typed = other.value.trim();
    return isSeveral ? [...list.values(), ...(typed ? [typed] : [])] : typed ? [typed] : list.values();
  } };
}
