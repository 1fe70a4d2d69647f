// Runs once per box tool; gradio provides element, props and watch. Coordinates are whole numbers from 0 to 100.
const GRID = 100;
const stage = element.querySelector(".mv-stage");
const image = element.querySelector(".mv-stage img");
const drawn = element.querySelector(".mv-drawn");
const shade = element.querySelector(".mv-shade");
const status = element.querySelector(".mv-box-text");
const fields = ["x0", "y0", "x1", "y1"].map((edge) => element.querySelector(`[data-edge="${edge}"]`));
let key = null;
let box = null;
let start = null;

const clamp = (value) => Math.min(GRID, Math.max(0, Math.round(value)));

function order([x0, y0, x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

function show(newBox, { keepFields = false } = {}) {
  box = newBox;
  const [x0, y0, x1, y1] = box || [0, 0, 0, 0];
  for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
    drawn.setAttribute(name, value);
  }
  shade.setAttribute("d", box ? `M0 0H${GRID}V${GRID}H0Z M${x0} ${y0}V${y1}H${x1}V${y0}Z` : "");
  if (!keepFields) fields.forEach((field, index) => (field.value = box ? box[index] : ""));
  status.textContent = box ? `Box {<${box.join("><")}>}` : "No box yet.";
  // Only the box goes back to the server: the picture came from there.
  props.value = { box };
}

function point(event) {
  const frame = image.getBoundingClientRect();
  return [
    clamp(((event.clientX - frame.left) / frame.width) * GRID),
    clamp(((event.clientY - frame.top) / frame.height) * GRID),
  ];
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button > 0 || !image.getAttribute("src")) return;
  start = point(event);
  stage.setPointerCapture(event.pointerId);
  event.preventDefault();
});
stage.addEventListener("pointermove", (event) => {
  if (start) show(order([...start, ...point(event)]));
});
const finish = () => {
  // A click without a drag is no box.
  if (start && box && (box[0] === box[2] || box[1] === box[3])) show(null);
  start = null;
};
stage.addEventListener("pointerup", finish);
stage.addEventListener("pointercancel", finish);

fields.forEach((field) =>
  field.addEventListener("input", () => {
    const numbers = fields.map((other) => (other.value === "" ? NaN : clamp(Number(other.value))));
    const complete = numbers.every(Number.isFinite) && numbers[0] !== numbers[2] && numbers[1] !== numbers[3];
    show(complete ? order(numbers) : null, { keepFields: true });
  }),
);
element.querySelector(".mv-clear-box").addEventListener("click", () => show(null));

function receive() {
  const value = props.value;
  if (!value || !("picture" in value)) return;
  const keep = value.key === key && !value.clear;
  key = value.key;
  element.querySelector(".mv-boxtool").classList.toggle("mv-has-picture", Boolean(value.picture));
  if (value.picture) image.src = value.picture;
  else image.removeAttribute("src");
  show(keep ? box : null);
}
watch("value", receive);
receive();
