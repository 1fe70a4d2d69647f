// What the other scripts make the page's elements with.
(() => {
  // An element with properties and children, which may be text.
  function make(name, attributes = {}, ...children) {
    const node = Object.assign(document.createElement(name), attributes);
    node.append(...children);
    return node;
  }

  Object.assign((window.minivlm ??= {}), { make });
})();
