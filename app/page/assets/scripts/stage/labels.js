// Where the labels of boxes go. Each is as large as there is room for: a plate with the phrase, its number, a dot.
// app/page/boxes/overlay.py does the same for pictures that do not move; here the places change with every zoom.
(() => {
  const CELL = 64; // pixels; what is near a place is found through cells of this side
  const SMALL = 60; // a box of more than this many plates is hardly covered by one
  const MOST_COVERED = 0.06; // the part of a small box that a plate may cover

  // Rectangles [x0, y0, x1, y1], found by place.
  function makeGrid() {
    const cells = new Map();
    function each([x0, y0, x1, y1], visit) {
      for (let row = Math.floor(y0 / CELL); row <= Math.floor(y1 / CELL); row++) {
        for (let column = Math.floor(x0 / CELL); column <= Math.floor(x1 / CELL); column++) {
          if (visit(row * 4096 + column)) return true;
        }
      }
      return false;
    }
    return {
      add: (rectangle) => void each(rectangle, (cell) => {
        cells.has(cell) ? cells.get(cell).push(rectangle) : cells.set(cell, [rectangle]);
      }),
      some: (rectangle, test) => each(rectangle, (cell) => cells.get(cell)?.some(test) ?? false),
    };
  }

  const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);

  function shared(a, b) {
    return area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  }

  // Around the box first, nearest to where one begins to read; then inside.
  function* places([x0, y0, x1, y1], width, height) {
    yield [x0, y0 - height];
    yield [x1 - width, y0 - height];
    yield [x0, y1];
    yield [x1 - width, y1];
    yield [x1, y0];
    yield [x0 - width, y0];
    yield [x1, y1 - height];
    yield [x0 - width, y1 - height];
    yield [x0, y0];
    yield [x1 - width, y0];
    yield [x0, y1 - height];
  }

  // `boxes`: [{ box: [x0, y0, x1, y1] in pixels, plates: [[width, height] of each form, the largest first] }], `bounds`:
  // the rectangle that labels stay in. Gives for each { form, left, top }; form === plates.length is a dot.
  function placeLabels(boxes, bounds) {
    const labels = makeGrid();
    const smallBoxes = makeGrid();
    for (const { box, plates } of boxes) {
      if (area(box) < SMALL * plates[0][0] * plates[0][1]) smallBoxes.add(box);
    }
    const [west, north, east, south] = bounds;
    return boxes.map(({ box, plates }) => {
      for (let form = 0; form < plates.length; form++) {
        const [width, height] = plates[form];
        if (width > east - west || height > south - north) continue;
        for (const [x, y] of places(box, width, height)) {
          const left = Math.min(Math.max(x, west), east - width);
          const top = Math.min(Math.max(y, north), south - height);
          const plate = [left, top, left + width, top + height];
          if (labels.some(plate, (other) => shared(plate, other) > 0)) continue;
          if (smallBoxes.some(plate, (other) => shared(plate, other) > MOST_COVERED * Math.max(area(other), 1))) continue;
          labels.add(plate);
          return { form, left, top };
        }
      }
      return { form: plates.length, left: box[0], top: box[1] };
    });
  }

  Object.assign((window.minivlm ??= {}), { placeLabels });
})();
