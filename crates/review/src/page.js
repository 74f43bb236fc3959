  document.documentElement.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll("main .card")];
  const check = byId("check");

  // Pictures stay below the bar, whose height depends on the width of the window.
  const bar = document.querySelector(".top");
  new ResizeObserver(() => {
    const isFixed = getComputedStyle(bar).position === "sticky";
    document.documentElement.style.setProperty("--bar", isFixed ? `${bar.offsetHeight}px` : "0px");
  }).observe(bar);

  // Scrolls to a part. What comes into view may turn out to be higher than the space that was reserved for it, so it is
  // repeated for some frames.
  const scrollTo = (part, block, frames = 8) => {
    part.scrollIntoView({ block });
    if (frames > 0) requestAnimationFrame(() => scrollTo(part, block, frames - 1));
  };
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element && event.target.closest('a[href="#failures"]');
    if (!link) return;
    event.preventDefault();
    byId("failures").focus({ preventScroll: true });
    scrollTo(byId("failures"), "start");
  });

  // A phrase and its boxes are highlighted together when one of them is hovered or focused; where boxes are marked one by
  // one, a single box with its phrase.
  let active = null;
  const highlight = (part) => {
    const card = part && part.closest(".card");
    const key = part && ((check && part.dataset.b) || part.dataset.e);
    if (active && active.card === card && active.key === key) return;
    if (active) {
      active.parts.forEach((one) => one.classList.remove("on"));
      active.stage.classList.remove("hot");
    }
    active = null;
    if (!part || !card) return;
    choose(part);
    const one = check && part.dataset.b;
    const parts = [...card.querySelectorAll(`[data-e="${part.dataset.e}"]`)].filter(
      (other) => !one || !other.dataset.b || other.dataset.b === one,
    );
    const stage = card.querySelector(".stage");
    parts.forEach((one) => one.classList.add("on"));
    if (parts.some((one) => one.closest(".stage"))) stage.classList.add("hot");
    active = { card, key, parts, stage };
  };
  // Shows the boxes of the annotation that the part belongs to.
  const choose = (part) => {
    const reading = part.closest(".reading");
    const choice = reading && reading.querySelector(".prompt input");
    if (choice) choice.checked = true;
  };
  const partOf = (node) => (node instanceof Element ? node.closest("[data-e]") : null);
  document.addEventListener("pointerover", (event) => highlight(partOf(event.target) || partOf(document.activeElement)));
  document.addEventListener("focusin", (event) => highlight(partOf(event.target)));
  document.addEventListener("focusout", () => highlight(null));

  const enlarge = (card) => {
    const large = card.classList.toggle("large");
    card.querySelector(".grow").setAttribute("aria-pressed", String(large));
    card.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest(".grow");
    if (button) enlarge(button.closest(".card"));
  });

  // The switches of boxes and labels.
  ["boxes", "labels"].forEach((id) => {
    const input = byId(id);
    if (!input) return;
    const apply = () => document.querySelector("main").classList.toggle(`no-${id}`, !input.checked);
    input.addEventListener("change", apply);
    apply();
  });

  // A box with its label and its row of the spot check. They are looked up when they are needed first: most pages are
  // only scrolled.
  const entries = cards.map((card, at) => ({ card, at, text: null, boxes: null }));
  const boxesOf = (entry) => {
    if (entry.boxes) return entry.boxes;
    const boxes = new Map();
    entry.card.querySelectorAll(".box").forEach((node) => {
      const { b, e, score, phrase } = node.dataset;
      boxes.set(b, { id: b, entity: e, node, parts: [node], score: score === undefined ? null : Number(score), phrase });
    });
    entry.card.querySelectorAll(".tag[data-b], li[data-b]").forEach((node) => {
      const box = boxes.get(node.dataset.b);
      if (box) box.parts.push(node);
    });
    // In the order of the texts.
    const order = (box) => box.id.split("-").map(Number);
    entry.boxes = [...boxes.values()].sort((a, b) => {
      const [x, y] = [order(a), order(b)];
      return x[0] - y[0] || x[1] - y[1] || x[2] - y[2];
    });
    return entry.boxes;
  };
  const scoresOf = (entry) => boxesOf(entry).map((box) => box.score).filter((score) => score !== null);

  const filter = byId("filter");
  const read = (card) =>
    [...card.querySelectorAll(".name, .prompt, .text, .aside")].map((node) => node.textContent).join("\n").toLowerCase();
  const number = (input, fallback) => (input.value === "" || isNaN(input.value) ? fallback : Number(input.value));
  const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const failures = [...document.querySelectorAll(".failure")].map((node) => ({ node, text: null }));

  // Boxes that the filter leaves out are hidden, and phrases that have no other boxes are dimmed.
  const applyToBoxes = (entry, isIn) => {
    const seen = new Set();
    boxesOf(entry).forEach((box) => {
      const shown = isIn(box);
      if (shown) seen.add(box.entity);
      if (box.isOut === !shown) return;
      box.isOut = !shown;
      box.parts.forEach((part) => part.classList.toggle("out", !shown));
    });
    const entities = new Set(boxesOf(entry).map((box) => box.entity));
    entry.card.querySelectorAll("mark").forEach((mark) => {
      mark.classList.toggle("out", entities.has(mark.dataset.e) && !seen.has(mark.dataset.e));
    });
  };
  const applyFilter = () => {
    const [words, phrase] = [wordsOf(filter), byId("phrase").value.trim().toLowerCase()];
    const [from, to] = [number(byId("least"), 0), number(byId("most"), 1)];
    const isNarrow = from > 0 || to < 1;
    const hasPhrase = (box) => !phrase || box.phrase.toLowerCase().includes(phrase);
    const inRange = (box) => from <= box.score && box.score <= to;
    let shown = 0;
    entries.forEach((entry) => {
      const { card } = entry;
      if (words.length) entry.text = entry.text ?? read(card);
      const boxes = isNarrow || phrase || entry.isFiltered ? boxesOf(entry) : [];
      const isMatched =
        (!isNarrow && !phrase) || boxes.some((box) => hasPhrase(box) && (!isNarrow || (box.score !== null && inRange(box))));
      card.hidden = !isMatched || !words.every((word) => entry.text.includes(word));
      shown += card.hidden ? 0 : 1;
      if (!boxes.length) return;
      applyToBoxes(entry, (box) => hasPhrase(box) && (box.score === null || inRange(box)));
      entry.isFiltered = isNarrow || phrase !== "";
    });
    failures.forEach((failure) => {
      if (words.length) failure.text = failure.text ?? failure.node.textContent.toLowerCase();
      failure.node.hidden = !words.every((word) => failure.text.includes(word));
    });
    byId("matched").textContent = words.length || isNarrow || phrase ? ` · ${shown} shown` : "";
    byId("unmatched").hidden = shown > 0;
  };

  // Pictures without scores come last.
  const applyOrder = () => {
    const key = {
      given: ({ at }) => at,
      low: (entry) => Math.min(...scoresOf(entry)),
      high: (entry) => -Math.max(...scoresOf(entry)),
    }[byId("sort").value];
    const keys = new Map(entries.map((entry) => [entry, key(entry)]));
    // The difference of two infinities is no number.
    const compare = (a, b) => (a === b ? 0 : a - b);
    entries.sort((a, b) => compare(keys.get(a), keys.get(b)) || a.at - b.at);
    byId("unmatched").before(...entries.map(({ card }) => card));
  };

  if (filter) {
    // Several changes within one frame are applied once.
    let isWaiting = false;
    const later = () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        applyFilter();
      });
    };
    ["filter", "phrase", "least", "most"].forEach((id) => byId(id).addEventListener("input", later));
    byId("sort").addEventListener("change", applyOrder);
    // After a navigation back to the page, the browser restores the controls.
    if (byId("sort").value !== "given") applyOrder();
    if (filter.value || byId("phrase").value || byId("least").value !== "0" || byId("most").value !== "1") applyFilter();
  }
