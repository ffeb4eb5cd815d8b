// Inpainting: a mask is drawn over an image; what is drawn over is made anew.
import { card, doing, every, h, imageAddress, post } from "./dom.js";
import { makeForm, modelChooser } from "./form.js";
import { makeGallery } from "./sample.js";
import { t } from "./texts.js";

const SIDE = 512; // of the canvas, in pixels
const LARGEST = 2048; // side of the image that is sent

export async function showInpaint(place, parameters) {
  const wanted = parameters.get("model");
  const models = await modelChooser(wanted ? [wanted] : [], false, () => {}, ["pipeline", "checkpoint"]);
  const form = await makeForm("inpaint");
  const board = makeBoard();
  const file = h("input", { type: "file", accept: "image/*", "aria-label": t("choose_image"), onchange: () => {
    if (file.files[0]) board.load(URL.createObjectURL(file.files[0]));
  } });
  const button = h("button", { type: "button", id: "make", onclick: doing(async () => {
    await post("inpaint", { model: models.values()[0] ?? "", values: form.values(), image: board.image(), mask: board.mask() });
    await update();
  }) }, t("make_images"));
  const gallery = h("div", { class: "gallery" });
  place.append(h("h1", {}, t("page_inpaint")),
    h("div", { class: "two" },
      h("div", {}, card(t("draw_mask"), h("p", { class: "soft" }, t("draw_mask_text")), file, board.element)),
      h("div", {}, card(t("model"), models.element), card(t("options"), form.element, h("p", {}, button)))),
    gallery);
  const update = makeGallery(gallery, (task) => task.kind === "inpaint", t("gallery_empty"));
  const given = parameters.get("image");
  if (given) board.load(imageAddress(given));
  await every(2, update);
}

function makeBoard() {
  const view = h("canvas", { width: SIDE, height: SIDE, class: "board", "aria-label": t("draw_mask") });
  const drawn = document.createElement("canvas"), source = document.createElement("canvas");
  drawn.width = drawn.height = SIDE;
  const pen = drawn.getContext("2d"), screen = view.getContext("2d");
  const size = h("input", { type: "range", min: 8, max: 200, value: 60, "aria-label": t("brush") });
  let last = null, hasImage = false, before = [];
  const show = () => {
    screen.clearRect(0, 0, SIDE, SIDE);
    screen.imageSmoothingEnabled = false;
    if (hasImage) screen.drawImage(source, 0, 0, SIDE, SIDE);
    screen.globalAlpha = 0.6;
    screen.drawImage(drawn, 0, 0);
    screen.globalAlpha = 1;
  };
  const at = (event) => {
    const area = view.getBoundingClientRect();
    return [(event.clientX - area.left) * SIDE / area.width, (event.clientY - area.top) * SIDE / area.height];
  };
  const line = (from, to) => {
    pen.strokeStyle = "#e0245e";
    pen.lineCap = "round";
    pen.lineWidth = Number(size.value);
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    show();
  };
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    before = [...before.slice(-20), pen.getImageData(0, 0, SIDE, SIDE)];
    last = at(event);
    line(last, last);
  });
  view.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const now = at(event);
    line(last, now);
    last = now;
  });
  for (const kind of ["pointerup", "pointercancel"]) view.addEventListener(kind, () => { last = null; });
  const undo = h("button", { type: "button", class: "small", onclick: () => {
    if (before.length) pen.putImageData(before.pop(), 0, 0);
    show();
  } }, t("undo"));
  const clear = h("button", { type: "button", class: "small", onclick: () => {
    before = [...before, pen.getImageData(0, 0, SIDE, SIDE)];
    pen.clearRect(0, 0, SIDE, SIDE);
    show();
  } }, t("clear"));
  show();
  return {
    element: h("div", {}, view, h("p", { class: "slider" }, t("brush"), size, undo, clear)),
    load(address) {
      const image = new Image();
      image.onload = () => {
        // The middle square, as the model will see it.
        const side = Math.min(image.naturalWidth, image.naturalHeight), scaled = Math.min(side, LARGEST);
        source.width = source.height = scaled;
        source.getContext("2d").drawImage(image, (image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2, side, side, 0, 0, scaled, scaled);
        hasImage = true;
        pen.clearRect(0, 0, SIDE, SIDE);
        before = [];
        show();
        view.dataset.loaded = "yes";
      };
      image.src = address;
    },
    image: () => hasImage ? source.toDataURL("image/png") : "",
    // White is kept, black is made anew.
    mask() {
      const mask = document.createElement("canvas");
      mask.width = mask.height = SIDE;
      const context = mask.getContext("2d"), data = pen.getImageData(0, 0, SIDE, SIDE);
      for (let place = 0; place < data.data.length; place += 4) {
        const value = data.data[place + 3] > 127 ? 0 : 255;
        data.data.set([value, value, value, 255], place);
      }
      context.putImageData(data, 0, 0);
      return mask.toDataURL("image/png");
    },
  };
}
