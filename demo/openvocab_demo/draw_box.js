// Dragging on the detections draws a box around an object, and triggers `select` with its corners
// in pixels of the image. Only while a class name is entered, so that a finger still scrolls.
const name = () => document.querySelector("#example-name input, #example-name textarea");
const outline = document.createElement("div");
outline.className = "drawn-box";
let image = null, start = null;

// Where the image is on the screen; it is fitted into its element, with bars at two sides.
const fitted = () => {
  const {left, top, width, height} = image.getBoundingClientRect();
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  return {
    scale,
    left: left + (width - scale * image.naturalWidth) / 2,
    top: top + (height - scale * image.naturalHeight) / 2,
  };
};

// Pixels of the image, which stay right if the page scrolls during a drag.
const pixel = (event) => {
  const {scale, left, top} = fitted();
  return {x: (event.clientX - left) / scale, y: (event.clientY - top) / scale};
};

const box = (event) => {
  const end = pixel(event);
  return [
    Math.min(start.x, end.x), Math.min(start.y, end.y),
    Math.max(start.x, end.x), Math.max(start.y, end.y),
  ];
};

const stop = () => { outline.remove(); image = start = null; };

document.addEventListener("input", (event) => {
  if (event.target === name()) {
    document.body.classList.toggle("drawing-boxes", name().value.trim() !== "");
  }
});

document.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button || !name()?.value.trim()) return;
  if (!event.target.matches("#image-result img")) return;
  image = event.target;
  start = pixel(event);
});

document.addEventListener("dragstart", (event) => { if (start) event.preventDefault(); });

document.addEventListener("pointermove", (event) => {
  if (!start) return;
  const {scale, left, top} = fitted();
  const [x1, y1, x2, y2] = box(event);
  Object.assign(outline.style, {
    left: `${left + scale * x1}px`, top: `${top + scale * y1}px`,
    width: `${scale * (x2 - x1)}px`, height: `${scale * (y2 - y1)}px`,
  });
  document.body.append(outline);
});

document.addEventListener("pointerup", (event) => {
  if (!start) return;
  const drawn = box(event);
  stop();
  trigger("select", {box: drawn});
});

document.addEventListener("pointercancel", stop);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
