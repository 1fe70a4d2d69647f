// Which part of the picture the stage shows, and how large: wheel, pinch, drag, double click, keys.
(() => {
  const STEP = 1.3; // one press of a key or button
  const MOST = 40; // times the fitted size
  const NUDGE = 60; // pixels that an arrow key moves the picture
  const CLICK = 4; // pixels that a pointer may move in a click
  const NOT_THE_PICTURE = "button, .mv-box-menu"; // what lies over it and has clicks of its own

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // In pixels of the frame.
  function pointOf(frame, event) {
    const { left, top } = frame.getBoundingClientRect();
    return { x: event.clientX - left - frame.clientLeft, y: event.clientY - top - frame.clientTop };
  }

  // Where the whole picture lies, in pixels of the frame.
  function placeOf({ size, room, zoom, centre }) {
    const fit = Math.min(room.width / size.width, room.height / size.height);
    const width = size.width * fit * zoom;
    const height = size.height * fit * zoom;
    const start = (length, whole, middle) =>
      length <= whole ? (whole - length) / 2 : clamp(whole / 2 - middle * length, whole - length, 0);
    return { left: start(width, room.width, centre.x), top: start(height, room.height, centre.y), width, height };
  }

  // The part that is shown: moved, enlarged, and told to `changed` each time.
  function makePart(frame, changed) {
    const now = {
      size: { width: 1, height: 1 }, // of the picture, in its own pixels
      room: { width: 1, height: 1 }, // of the frame, in CSS pixels
      zoom: 1, // 1 fits the whole picture
      centre: { x: 0.5, y: 0.5 }, // what lies in the middle of the frame, in fractions of the picture
    };
    const shown = () => placeOf(now);
    const isZoomed = () => now.zoom > 1.001;

    function settle() {
      const { left, top, width, height } = shown();
      now.centre = { x: (now.room.width / 2 - left) / width, y: (now.room.height / 2 - top) / height };
      frame.classList.toggle("mv-zoomed", isZoomed());
      changed();
    }

    // `point` stays where it is: { x, y } in pixels of the frame.
    function zoomTo(wanted, point = { x: now.room.width / 2, y: now.room.height / 2 }) {
      const before = shown();
      const at = { x: (point.x - before.left) / before.width, y: (point.y - before.top) / before.height };
      now.zoom = clamp(wanted, 1, MOST);
      const { width, height } = shown();
      now.centre = { x: at.x + (now.room.width / 2 - point.x) / width, y: at.y + (now.room.height / 2 - point.y) / height };
      settle();
    }

    function panBy(x, y) {
      const { width, height } = shown();
      now.centre = { x: now.centre.x - x / width, y: now.centre.y - y / height };
      settle();
    }

    function reset() {
      Object.assign(now, { zoom: 1, centre: { x: 0.5, y: 0.5 } });
      settle();
    }

    function measure() {
      now.room = { width: Math.max(frame.clientWidth, 1), height: Math.max(frame.clientHeight, 1) };
      settle();
    }

    return { now, shown, isZoomed, zoomTo, panBy, reset, measure };
  }

  // A point of the frame in fractions of the picture.
  function fractionsOf(part, { x, y }) {
    const { left, top, width, height } = part.shown();
    return [clamp((x - left) / width, 0, 1), clamp((y - top) / height, 0, 1)];
  }

  function spread(pointers) {
    const [a, b] = [...pointers.values()];
    return { distance: Math.hypot(a.x - b.x, a.y - b.y), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  }

  // One pointer moves the picture, or draws where there is a tool for it; two pinch it.
  function followPointers(frame, part, toolNow) {
    const pointers = new Map();
    let pinch = null;
    let dragging = null;

    const fractionOf = (event) => fractionsOf(part, pointOf(frame, event));

    function press(event) {
      if (event.button > 0 || event.target.closest(NOT_THE_PICTURE)) return;
      const tool = toolNow();
      pointers.set(event.pointerId, pointOf(frame, event));
      if (pointers.size === 2) {
        tool?.cancel();
        dragging = null;
        pinch = { ...spread(pointers), zoom: part.now.zoom };
      } else if (pointers.size === 1) {
        dragging = { from: pointOf(frame, event), moved: false, draws: Boolean(tool) };
        if (tool) {
          frame.setPointerCapture(event.pointerId);
          tool.start(fractionOf(event));
          event.preventDefault();
          frame.focus({ preventScroll: true });
        }
      }
    }

    function move(event) {
      if (!pointers.has(event.pointerId)) return;
      const before = pointers.get(event.pointerId);
      const now = pointOf(frame, event);
      pointers.set(event.pointerId, now);
      if (pinch && pointers.size === 2) pinchTo(spread(pointers));
      else if (dragging?.draws) toolNow()?.move(fractionOf(event));
      else if (dragging) {
        if (!dragging.moved && Math.hypot(now.x - dragging.from.x, now.y - dragging.from.y) < CLICK) return;
        if (!dragging.moved) frame.setPointerCapture(event.pointerId);
        dragging.moved = true;
        part.panBy(now.x - before.x, now.y - before.y);
      }
    }

    function pinchTo({ distance, middle }) {
      part.panBy(middle.x - pinch.middle.x, middle.y - pinch.middle.y);
      pinch.middle = middle;
      part.zoomTo((pinch.zoom * distance) / Math.max(pinch.distance, 1), middle);
    }

    function release(event) {
      if (!pointers.delete(event.pointerId)) return;
      if (dragging?.draws) event.type === "pointerup" ? toolNow()?.end(fractionOf(event)) : toolNow()?.cancel();
      if (pointers.size < 2) pinch = null;
      dragging = null;
    }

    Object.entries({ pointerdown: press, pointermove: move, pointerup: release, pointercancel: release })
      .forEach(([name, listener]) => frame.addEventListener(name, listener));
  }

  function followWheelAndClicks(frame, part, toolNow) {
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      // A pinch on a trackpad comes as a wheel with Ctrl, in far smaller steps.
      const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002));
      part.zoomTo(part.now.zoom * factor, pointOf(frame, event));
    }, { passive: false });
    frame.addEventListener("dblclick", (event) => {
      if (toolNow() || event.target.closest(NOT_THE_PICTURE)) return;
      part.isZoomed() ? part.reset() : part.zoomTo(3, pointOf(frame, event));
    });
  }

  function followKeys(frame, { zoomIn, zoomOut, reset, panBy }) {
    const KEYS = {
      "+": zoomIn, "=": zoomIn, "-": zoomOut, 0: reset,
      ArrowLeft: () => panBy(NUDGE, 0), ArrowRight: () => panBy(-NUDGE, 0),
      ArrowUp: () => panBy(0, NUDGE), ArrowDown: () => panBy(0, -NUDGE),
    };
    frame.addEventListener("keydown", (event) => {
      if (event.target !== frame || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
      event.preventDefault();
      KEYS[event.key]();
    });
  }

  // `frame` is the element that shows the picture; `changed` is called whenever another part of it is to be drawn.
  function makeView(frame, changed) {
    let tool = null; // { start, move, end, cancel } of whoever draws; takes one pointer, given in fractions
    const part = makePart(frame, changed);
    const { now, shown, reset } = part;
    const zoomIn = () => part.zoomTo(now.zoom * STEP);
    const zoomOut = () => part.zoomTo(now.zoom / STEP);
    followPointers(frame, part, () => tool);
    followWheelAndClicks(frame, part, () => tool);
    followKeys(frame, { zoomIn, zoomOut, reset, panBy: part.panBy });
    new ResizeObserver(part.measure).observe(frame);
    return {
      shown, reset, zoomIn, zoomOut,
      show(picture) {
        now.size = picture;
        reset();
      },
      scale: () => shown().width / now.size.width,
      room: () => now.room,
      draw: (wanted) => (tool = wanted),
    };
  }

  Object.assign((window.minivlm ??= {}), { makeView });
})();
