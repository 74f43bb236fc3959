
  // The spot check: each box can be marked right or wrong. Marks are kept in the browser's storage under the page's id,
  // or, where there is none, until the page is closed.
  const marks = (() => {
    if (!check) return null;
    const place = `groundling-review:${check.dataset.page}`;
    const idOf = (annotation, task, entity, index) => JSON.stringify([annotation, task, entity, index]);
    // What a mark belongs to, by its id.
    const known = new Map();
    document.querySelectorAll("main .card[data-annotation]").forEach((card) => {
      const tasks = [...card.querySelectorAll(".layer")].map((layer) => layer.dataset.task);
      card.querySelectorAll("li[data-b]").forEach((row) => {
        const [reading, entity, index] = row.dataset.b.split("-").map(Number);
        known.set(idOf(card.dataset.annotation, tasks[reading], entity, index), { card, row, task: tasks[reading], entity, index });
      });
    });
    const ids = new Map([...known].map(([id, { row }]) => [row, id]));
    const verdicts = new Map();

    let storage = null;
    const setVerdict = (id, verdict) => {
      if (verdict === "right" || verdict === "wrong") verdicts.set(id, verdict);
      else verdicts.delete(id);
    };
    const isVerdict = (one) => Array.isArray(one) && known.has(one[0]);
    try {
      storage = window.localStorage;
      const stored = JSON.parse(storage.getItem(place) || "[]");
      if (Array.isArray(stored)) stored.filter(isVerdict).forEach(([id, verdict]) => setVerdict(id, verdict));
    } catch {
      // Storage is switched off, or does not contain what this page wrote.
    }
    const keep = () => {
      let isKept = false;
      try {
        storage.setItem(place, JSON.stringify([...verdicts]));
        isKept = true;
      } catch {
        // Full or switched off.
      }
      byId("kept").textContent = isKept
        ? "Kept in this browser."
        : "This browser keeps no marks: save them as a file before you close the page.";
    };

    const show = (id) => {
      const { card, row } = known.get(id);
      const verdict = verdicts.get(id);
      row.querySelectorAll(".verdict").forEach((button) => {
        button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
      });
      card.querySelectorAll(`.stage [data-b="${row.dataset.b}"]`).forEach((part) => {
        part.classList.toggle("right", verdict === "right");
        part.classList.toggle("wrong", verdict === "wrong");
        if (part.classList.contains("box")) {
          part.dataset.label = part.dataset.label || part.getAttribute("aria-label");
          part.setAttribute("aria-label", verdict ? `${part.dataset.label}, marked ${verdict}` : part.dataset.label);
        }
      });
    };
    const count = () => {
      const right = [...verdicts.values()].filter((verdict) => verdict === "right").length;
      byId("marked").textContent = verdicts.size
        ? `${verdicts.size} of ${known.size} boxes marked: ${right} right, ${verdicts.size - right} wrong.`
        : `No box of ${known.size} is marked yet.`;
    };
    const mark = (row, verdict) => {
      const id = ids.get(row);
      if (id === undefined) return;
      setVerdict(id, verdict);
      show(id);
      count();
      keep();
    };
    document.addEventListener("click", (event) => {
      const button = event.target instanceof Element && event.target.closest(".verdict");
      if (!button) return;
      // A second click takes the mark back.
      mark(button.closest("li"), button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.verdict);
    });

    const file = () => ({
      format: "groundling-judgements",
      version: 1,
      page: check.dataset.page,
      dataset: check.dataset.dataset,
      saved_at: new Date().toISOString(),
      boxes_on_page: known.size,
      boxes: [...verdicts].map(([id, verdict]) => {
        const { card, row, task, entity, index } = known.get(id);
        return {
          annotation_id: card.dataset.annotation,
          task_id: task,
          entity,
          box: index,
          phrase: row.dataset.phrase,
          fractions: row.dataset.at.split(" ").map(Number),
          score: row.dataset.score === undefined ? null : Number(row.dataset.score),
          verdict,
        };
      }),
    });
    byId("save").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(file(), null, 1)], { type: "application/json" }));
      link.download = `${check.dataset.dataset}-${check.dataset.page}.json`;
      link.click();
      // The download has begun by then.
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });

    const load = (text) => {
      const read = JSON.parse(text);
      if (read.format !== "groundling-judgements" || read.version !== 1 || !Array.isArray(read.boxes)) {
        throw new Error("it is not a file of marks");
      }
      let loaded = 0;
      read.boxes.forEach((one) => {
        const id = idOf(one.annotation_id, one.task_id, one.entity, one.box);
        if (!known.has(id)) return;
        setVerdict(id, one.verdict);
        show(id);
        loaded += 1;
      });
      count();
      keep();
      return `${loaded} of ${read.boxes.length} marks loaded.`;
    };
    byId("load").addEventListener("change", async (event) => {
      const [chosen] = event.target.files;
      if (!chosen) return;
      let said;
      try {
        said = load(await chosen.text());
      } catch (error) {
        said = `The file was not loaded: ${error.message}.`;
      }
      byId("kept").textContent = said;
      // The same file can be chosen again.
      event.target.value = "";
    });

    verdicts.forEach((_, id) => show(id));
    count();
    const rowOf = (box) => box.closest(".card").querySelector(`li[data-b="${box.dataset.b}"]`);
    return { mark: (box, verdict) => mark(rowOf(box), verdict) };
  })();
