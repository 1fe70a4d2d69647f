// What can be done with a box that was drawn on the stage: the entries of the small menu beside it.
(() => {
  const minivlm = (window.minivlm ??= {});

  const field = () => document.querySelector("#mv-question textarea");
  const send = () => document.querySelector("#mv-question .submit-button")?.click();

  function setQuestion(text) {
    // gradio hears of a new value only through an event, and the element's own setter is what a keyboard uses.
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field(), text);
    field().dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Send a question in place of the one that is being typed, which stays.
  function ask(text) {
    minivlm.sending(text);
    minivlm.tell("ask_text", { text });
  }

  // `isCurrent`: the next question is about the picture on the stage, so that its boxes mean something in the text.
  function boxActions({ key, isCurrent, drawing, screen }) {
    const tasks = minivlm.tasks();
    const identify = tasks.find((task) => task.takes_box);
    const knowsBoxes = tasks.some((task) => task.takes_box || task.gives_boxes);
    const leave = () => screen.open(false);
    const done = () => {
      drawing.clear();
      drawing.turn(false);
    };
    const entries = [
      isCurrent && identify && {
        label: "Identify this",
        run(numbers) {
          leave();
          if (minivlm.taskOf(field().value)?.takes_box) return send();
          ask(`${identify.prompt.trimEnd()} ${drawing.written(numbers)}`);
          drawing.turn(false);
        },
      },
      {
        label: "Ask about this part",
        title: "The part in the box becomes the picture of your next question",
        run(numbers) {
          minivlm.tell("crop", { key, box: numbers });
          done();
          leave();
          field().focus();
        },
      },
      isCurrent && knowsBoxes && {
        label: "Refer to it",
        title: "Its numbers go into your question",
        run(numbers) {
          const { value, selectionStart, selectionEnd } = field();
          const pieces = [value.slice(0, selectionStart).trimEnd(), drawing.written(numbers), value.slice(selectionEnd).trimStart()];
          leave();
          setQuestion(pieces.filter(Boolean).join(" "));
          field().focus();
        },
      },
      {
        label: "Copy its numbers",
        run: (numbers, item) => (item.dataset.copy = drawing.written(numbers)), // the page's listener copies it and says so
      },
      { label: "Clear", run: () => drawing.clear() },
    ];
    return entries.filter(Boolean);
  }

  Object.assign(minivlm, { boxActions, sendQuestion: send });
})();
