// What is changed in the text box from outside. People type on while the server works, so what it says is done to what the
// box holds by then. Each function gets that and gives what the box becomes.
(() => {
  const page = window.minivlm;
  const originals = new Map(); // which file of before another one is, by their paths

  // The text box for the task whose button was pressed: what was typed stays, stock prompts of other tasks do not.
  function withTask(value) {
    const index = page.pressedTask;
    page.outdateRefusal();
    const tasks = page.tasks();
    const part = (text) => {
      const task = page.taskOf(text, tasks);
      return text.trim().slice(task?.identifier.length ?? 0).trim();
    };
    const typed = part(value.text);
    const isStock = !typed || tasks.some((other) => part(other.prompt) === typed);
    const text = isStock ? tasks[index].prompt : `${tasks[index].identifier} ${typed}`.trimStart();
    return { ...value, text };
  }

  // The server has read the files, or has others for the box: question/box.py.
  function withFiles(value, told) {
    const { renamed = {}, replaced } = told || {};
    if (replaced) return { ...value, files: replaced };
    if (!value.files.some((file) => file.path in renamed)) return page.NOTHING;
    const files = value.files.flatMap((file) => {
      if (!(file.path in renamed)) return [file];
      const now = renamed[file.path];
      if (now) originals.set(now.path, file.path);
      return now ? [now] : [];
    });
    return { ...value, files };
  }

  // A question was accepted; what has come into the box since it was sent stays.
  function withoutTaken(value, taken) {
    if (!taken) return page.NOTHING;
    const isStart = (value.text.toWellFormed?.() ?? value.text).startsWith(taken.text); // half characters: box.py
    const text = isStart ? value.text.slice(taken.text.length).trimStart() : value.text;
    const isTaken = (path) => taken.files.includes(path) || (originals.has(path) && isTaken(originals.get(path)));
    return { text, files: value.files.filter((file) => !isTaken(file.path)) };
  }

  Object.assign(page, { withFiles, withoutTaken, withTask });
})();
