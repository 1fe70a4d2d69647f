// Which part of the picture the stage shows, and how large: wheel, pinch, drag, double click, keys.
(() => {
  const STEP = 1.3; // one press of a key or button
  const MOST = 40; // times the fitted size
  const NUDGE = 60; // pixels that an arrow key moves the picture
  const CLICK = 4; // pixels that a pointer may move in a click

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // `frame` is the element that shows the picture; `changed` is called whenever another part of it is to be drawn.
  function makeView(frame, changed) {
    let size = { width: 1, height: 1 }; // of the picture, in its own pixels
    let room = { width: 1, height: 1 }; // of the frame, in CSS pixels
    let zoom = 1; // 1 fits the whole picture
    let centre = { x: 0.5, y: 0.5 }; // what lies in the middle of the frame, in fractions of the picture
    let tool = null; // { start, move, end, cancel } of whoever draws; takes one pointer, given in fractions
    const pointers = new Map();
    let pinch = null;
    let dragging = null;

    function shown() {
      const fit = Math.min(room.width / size.width, room.height / size.height);
      const width = size.width * fit * zoom;
      const height = size.height * fit * zoom;
      const place = (length, whole, middle) =>
        length <= whole ? (whole - length) / 2 : clamp(whole / 2 - middle * length, whole - length, 0);
      return { left: place(width, room.width, centre.x), top: place(height, room.height, centre.y), width, height };
    }

    function settle() {
      const { left, top, width, height } = shown();
      centre = { x: (room.width / 2 - left) / width, y: (room.height / 2 - top) / height };
      frame.classList.toggle("mv-zoomed", zoom > 1.001);
      changed();
    }

    // `point` stays where it is: { x, y } in pixels of the frame.
    function zoomTo(wanted, point = { x: room.width / 2, y: room.height / 2 }) {
      const before = shown();
      const at = { x: (point.x - before.left) / before.width, y: (point.y - before.top) / before.height };
      zoom = clamp(wanted, 1, MOST);
      const { width, height } = shown();
      centre = { x: at.x + (room.width / 2 - point.x) / width, y: at.y + (room.height / 2 - point.y) / height };
      settle();
    }

    function panBy(x, y) {
      const { width, height } = shown();
      centre = { x: centre.x - x / width, y: centre.y - y / height };
      settle();
    }

    function reset() {
      zoom = 1;
      centre = { x: 0.5, y: 0.5 };
      settle();
    }

    function show(picture) {
      size = picture;
      reset();
    }

    function pointOf(event) {
      const { left, top } = frame.getBoundingClientRect();
      return { x: event.clientX - left - frame.clientLeft, y: event.clientY - top - frame.clientTop };
    }

    function fractionOf(event) {
      const point = pointOf(event);
      const { left, top, width, height } = shown();
      return [clamp((point.x - left) / width, 0, 1), clamp((point.y - top) / height, 0, 1)];
    }

    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      // A pinch on a trackpad comes as a wheel with Ctrl, in far smaller steps.
      zoomTo(zoom * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), pointOf(event));
    }, { passive: false });

    frame.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || event.target.closest("button, .mv-box-menu")) return;
      pointers.set(event.pointerId, pointOf(event));
      if (pointers.size === 2) {
        tool?.cancel();
        dragging = null;
        pinch = { ...spread(), zoom };
      } else if (pointers.size === 1) {
        dragging = { from: pointOf(event), moved: false, draws: Boolean(tool) };
        if (tool) {
          frame.setPointerCapture(event.pointerId);
          tool.start(fractionOf(event));
          event.preventDefault();
          frame.focus({ preventScroll: true });
        }
      }
    });

    function spread() {
      const [a, b] = [...pointers.values()];
      return { distance: Math.hypot(a.x - b.x, a.y - b.y), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
    }

    frame.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const before = pointers.get(event.pointerId);
      const now = pointOf(event);
      pointers.set(event.pointerId, now);
      if (pinch && pointers.size === 2) {
        const { distance, middle } = spread();
        panBy(middle.x - pinch.middle.x, middle.y - pinch.middle.y);
        pinch.middle = middle;
        zoomTo((pinch.zoom * distance) / Math.max(pinch.distance, 1), middle);
      } else if (dragging?.draws) {
        tool?.move(fractionOf(event));
      } else if (dragging) {
        if (!dragging.moved && Math.hypot(now.x - dragging.from.x, now.y - dragging.from.y) < CLICK) return;
        if (!dragging.moved) frame.setPointerCapture(event.pointerId);
        dragging.moved = true;
        panBy(now.x - before.x, now.y - before.y);
      }
    });

    function release(event) {
      if (!pointers.delete(event.pointerId)) return;
      if (dragging?.draws) event.type === "pointerup" ? tool?.end(fractionOf(event)) : tool?.cancel();
      if (pointers.size < 2) pinch = null;
      dragging = null;
    }
    frame.addEventListener("pointerup", release);
    frame.addEventListener("pointercancel", release);

    frame.addEventListener("dblclick", (event) => {
      if (tool || event.target.closest("button, .mv-box-menu")) return;
      zoom > 1.001 ? reset() : zoomTo(3, pointOf(event));
    });

    const KEYS = {
      "+": () => zoomTo(zoom * STEP), "=": () => zoomTo(zoom * STEP), "-": () => zoomTo(zoom / STEP), 0: reset,
      ArrowLeft: () => panBy(NUDGE, 0), ArrowRight: () => panBy(-NUDGE, 0),
      ArrowUp: () => panBy(0, NUDGE), ArrowDown: () => panBy(0, -NUDGE),
    };
    frame.addEventListener("keydown", (event) => {
      if (event.target !== frame || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
      event.preventDefault();
      KEYS[event.key]();
    });

    new ResizeObserver(() => {
      room = { width: Math.max(frame.clientWidth, 1), height: Math.max(frame.clientHeight, 1) };
      settle();
    }).observe(frame);

    return {
      show, shown, reset,
      zoomIn: KEYS["+"],
      zoomOut: KEYS["-"],
      scale: () => shown().width / size.width,
      room: () => room,
      draw: (wanted) => (tool = wanted),
    };
  }

  Object.assign((window.minivlm ??= {}), { makeView });
})();
