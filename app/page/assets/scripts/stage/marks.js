// The boxes on the stage, with lines and labels of one thickness at every zoom.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MOST = 300; // boxes that are drawn
  const SIZE = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16; // of the reader's text, to the usual
  const FONT = 12.5 * SIZE; // pixels
  const PLATE = 20 * SIZE; // pixels, the height of a label
  const PADDING = 6 * SIZE;
  const DOT = 5; // pixels, the radius of what a label becomes where there is no room
  const THIN = 0.002; // of the picture; a box as thin as a line can be seen
  const LONGEST = 26; // characters of a phrase
  const LOW = 240; // pixels; in a view that is lower, labels are numbers

  const pen = document.createElement("canvas").getContext("2d");
  const widths = new Map();

  // `family`: of the fonts in which it is written.
  function widthOf(text, family) {
    if (!widths.has(text)) {
      pen.font = `600 ${FONT}px ${family}`;
      widths.set(text, Math.ceil(pen.measureText(text).width) + 2 * PADDING);
    }
    return widths.get(text);
  }

  // Black or white, whichever reads better on a colour #rrggbb.
  function inkOn(colour) {
    const [red, green, blue] = [1, 3, 5].map((start) => (parseInt(colour.slice(start, start + 2), 16) / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000000" : "#ffffff";
  }

  function shorten(text) {
    const line = text.split(/\s+/).filter(Boolean).join(" ");
    const letters = [...line];
    return letters.length <= LONGEST ? line : letters.slice(0, LONGEST - 1).join("").trimEnd() + "…";
  }

  function make(name, attributes, parent) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  }

  const lookOf = ({ region: { number, label, colour }, isOther, box, isOnly }) =>
    JSON.stringify([number, label, colour, isOther, box, isOnly ?? null]);

  // `isOnly`, where two answers are compared: whether this one alone has the box.
  function shapes({ region, isOther, isOnly, box: [x0, y0, x1, y1] }, lines, tags) {
    const { number, label, colour } = region;
    const strength = isOnly === undefined ? "" : isOnly ? " mv-bold" : " mv-quiet";
    const group = make("g", { class: `mv-mark${isOther ? " mv-other" : ""}${strength}`, "data-entity": number }, lines);
    const tag = make("g", { class: isOther ? "mv-tag mv-other" : "mv-tag", "data-entity": number }, tags);
    const plate = isOther ? { fill: "#ffffff", stroke: colour } : { fill: colour, stroke: "#ffffff" };
    const captions = [`${number} ${shorten(label)}`.trimEnd(), String(number)];
    make("title", {}, group).textContent = captions[0];
    const edges = { x: x0, y: y0, width: Math.max(x1 - x0, THIN), height: Math.max(y1 - y0, THIN) };
    make("rect", { class: "mv-halo", ...edges }, group);
    make("rect", { class: "mv-line", ...edges, stroke: colour, fill: isOther ? "none" : colour }, group);
    return {
      group,
      tag,
      plate: make("rect", { rx: 5, ...plate }, tag),
      text: make("text", { x: PADDING, y: PLATE * 0.71, fill: isOther ? "#000000" : inkOn(colour), "font-size": FONT, "font-weight": 600 }, tag),
      captions: [...new Set(captions)],
    };
  }

  // The part of a box within the bounds of the view, if there is one; both in pixels.
  function visiblePart([x0, y0, x1, y1], bounds) {
    const isInside = x1 >= bounds[0] && x0 <= bounds[2] && y1 >= bounds[1] && y0 <= bounds[3];
    return isInside ? [Math.max(x0, bounds[0]), Math.max(y0, bounds[1]), Math.min(x1, bounds[2]), Math.min(y1, bounds[3])] : null;
  }

  function write({ mark, plates, texts }, { form, left, top }) {
    const text = texts[form] ?? "";
    const isDot = !text;
    const transform = `translate(${isDot ? left - DOT : left} ${isDot ? top - DOT : top})`;
    if (mark.transform !== transform) mark.tag.setAttribute("transform", (mark.transform = transform));
    if (mark.written === text) return;
    mark.written = text;
    const [width, height] = isDot ? [2 * DOT, 2 * DOT] : plates[form];
    mark.tag.classList.toggle("mv-dot", isDot);
    mark.plate.setAttribute("width", width);
    mark.plate.setAttribute("height", height);
    mark.text.textContent = text;
  }

  function makeMarks(layer, view) {
    let marks = []; // one for each box that is drawn
    let family = ""; // of the labels' fonts
    let lines = null; // the group of all boxes, in fractions of the picture: one transform moves them all
    let tags = null; // that of all labels

    // `regions` of the answer that is shown, and `others`, of the one that it is compared with. Gives how many boxes
    // there are and how many of them are drawn. Of an answer that grows, what is there already stays.
    function set(regions, others = []) {
      family ||= getComputedStyle(layer).fontFamily;
      lines ??= make("g", {}, layer);
      tags ??= make("g", {}, layer); // above all boxes
      const all = [...others.map((one) => [one, true]), ...regions.map((one) => [one, false])].flatMap(
        ([region, isOther]) => region.boxes.map((box, index) => ({ region, isOther, box, isOnly: region.only?.[index] })),
      ).filter(({ isOther, isOnly }) => !(isOther && isOnly === false)); // both answers have it: once is enough
      const drawn = all.slice(0, MOST).map((mark) => ({ ...mark, look: lookOf(mark) }));
      const same = drawn.findIndex(({ look }, index) => marks[index]?.look !== look);
      const kept = same < 0 ? drawn.length : same;
      marks.splice(kept).forEach(({ group, tag }) => [group, tag].forEach((node) => node.remove()));
      marks.push(...drawn.slice(kept).map((mark) => ({ ...mark, ...shapes(mark, lines, tags) })));
      place();
      return { all: all.length, drawn: marks.length };
    }

    // The view has moved.
    function place() {
      const { left, top, width, height } = view.shown();
      const room = view.room();
      const bounds = [Math.max(0, left), Math.max(0, top), Math.min(room.width, left + width), Math.min(room.height, top + height)];
      lines?.setAttribute("transform", `translate(${left} ${top}) scale(${width} ${height})`);
      const first = room.height < LOW ? -1 : 0; // of the forms of a label, the shorter ones are the later
      const visible = [];
      for (const mark of marks) {
        const [x0, y0, x1, y1] = mark.box;
        const box = visiblePart([left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height], bounds);
        mark.tag.style.display = box ? "" : "none";
        if (box) visible.push({ mark, box, texts: mark.captions.slice(first) });
      }
      for (const one of visible) one.plates = one.texts.map((text) => [widthOf(text, family), PLATE]);
      window.minivlm.placeLabels(visible, bounds).forEach((label, index) => write(visible[index], label));
    }

    // `entities`: numbers as strings; the rest steps back. None of them: nothing does.
    function light(entities) {
      for (const { group, tag, region, isOther } of marks) {
        const isLit = entities.has(String(region.number)) && !isOther;
        for (const node of [group, tag]) {
          node.classList.toggle("mv-lit", isLit);
          node.classList.toggle("mv-dim", entities.size > 0 && !isLit);
        }
      }
    }

    return { set, place, light };
  }

  Object.assign((window.minivlm ??= {}), { makeMarks });
})();
