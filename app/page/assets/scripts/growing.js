// Makes a tree like some HTML, and leaves alone what is the same already: selected text stays selected. Of HTML that has
// grown at its end, only what comes after the common beginning is parsed and compared.
(() => {
  const page = window.minivlm;
  const STEP = 1024; // characters that are compared at once
  const TAG = /([^<]*)<(\/?)([a-z][\w:-]*)((?:[^>"]|"[^"]*")*)>/giy;
  const VOID = new Set(["br", "hr", "img", "input", "wbr"]);
  const DROPS_NEWLINE = new Set(["pre", "textarea", "listing"]); // at their beginning, which the cut is not

  function nodesOf(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return [...template.content.childNodes];
  }

  function setAttributes(node, wanted, kept = []) {
    for (const { name, value } of wanted.attributes) {
      if (!kept.includes(name) && node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
  }

  const OWN = ["data-label", "data-name"]; // of a button that says "Copied" for a moment

  function dropAttributes(node, wanted, kept) {
    for (const { name } of [...node.attributes]) {
      if (!wanted.hasAttribute(name) && !kept.includes(name) && !OWN.includes(name)) node.removeAttribute(name);
    }
  }

  // The children of a node become those of another one, beginning with these two, of which either may be null.
  function morph(node, before, wanted) {
    while (wanted) {
      const [old, now] = [before, wanted];
      [before, wanted] = [before?.nextSibling ?? null, wanted.nextSibling];
      if (!old) node.append(now);
      else if (old.isEqualNode(now)) continue;
      else if (old.nodeName !== now.nodeName) old.replaceWith(now);
      else if (old.nodeType !== Node.ELEMENT_NODE) old.data = now.data;
      else {
        // A phrase that was pressed stays so, and boxes that it has lit.
        const kept = old.matches(".mv-phrase, .mv-box, .mv-label") ? ["class", "aria-pressed"] : [];
        setAttributes(old, now, kept);
        dropAttributes(old, now, kept);
        morph(old, old.firstChild, now.firstChild);
      }
    }
    while (before) {
      const next = before.nextSibling;
      before.remove();
      before = next;
    }
  }

  function lengthOfCommon(a, b) {
    const most = Math.min(a.length, b.length);
    let end = 0;
    while (end < most && a.slice(end, end + STEP) === b.slice(end, end + STEP)) end += STEP;
    while (end < most && a[end] === b[end]) end += 1;
    return Math.min(end, most);
  }

  // How far some HTML has been read: `end` is behind a tag, `open` are the elements that are open there, each with its
  // tag, how many children it has had so far, and what the last of them is.
  const atBeginning = () => ({ end: 0, open: [] });

  // Reads on to the last tag that ends before `limit`; null where the tags are not as a writer of HTML nests them.
  function readOn({ end, open }, html, limit) {
    open = open.map((one) => ({ ...one }));
    TAG.lastIndex = end;
    for (let match; (match = TAG.exec(html)) && TAG.lastIndex <= limit; end = TAG.lastIndex) {
      const [, text, isEnd, name, rest] = match;
      const parent = open.at(-1);
      if (parent && text) parent.count += 1;
      if (isEnd) {
        if (open.pop()?.name !== name) return null;
      } else {
        if (parent) Object.assign(parent, { count: parent.count + 1, last: name });
        if (!VOID.has(name) && !rest.endsWith("/")) open.push({ tag: `<${name}${rest}>`, name, count: 0, last: "" });
      }
    }
    return { end, open };
  }

  // `node` was made from the HTML `part.html`. `part.read` keeps how far that has been read from one time to the next.
  function graft(part, node, html) {
    const limit = lengthOfCommon(part.html, html);
    const read = readOn(part.read && part.read.end <= limit ? part.read : atBeginning(), html, limit);
    if (!read?.open.length || DROPS_NEWLINE.has(read.open.at(-1).name)) return false;
    const [path, wanted] = [[node], nodesOf(read.open.map(({ tag }) => tag).join("") + html.slice(read.end)).slice(0, 1)];
    for (let level = 0; level < read.open.length; level++) {
      const { name, count, last } = read.open[level];
      const [here, there] = [path[level], wanted[level]];
      const isKnown = here?.localName === name && there?.localName === name && (!last || here.childNodes[count - 1]?.localName === last);
      if (!isKnown) return false; // something else has changed the page
      path.push(here.childNodes[count - 1]);
      wanted.push(there.firstChild);
    }
    for (let level = read.open.length - 1; level >= 0; level--) {
      const isDeepest = level === read.open.length - 1;
      const first = isDeepest ? wanted[level].firstChild : wanted[level + 1].nextSibling;
      morph(path[level], path[level].childNodes[read.open[level].count] ?? null, first);
    }
    part.read = read;
    return true;
  }

  // A part of a bubble, `{ html, nodes }` with one element, becomes what `html` says, which is one as well.
  function grow(part, html) {
    if (graft(part, part.nodes[0], html)) return;
    const [now] = nodesOf(html);
    setAttributes(part.nodes[0], now);
    morph(part.nodes[0], part.nodes[0].firstChild, now.firstChild);
    part.read = null;
  }

  page.growing = { grow, nodesOf, setAttributes };
})();
