
  // Keys.
  const focused = (selector) => document.activeElement && document.activeElement.closest(selector);
  const shownEntries = () => entries.filter(({ card }) => !card.hidden);
  const step = (by) => {
    const shown = shownEntries();
    const now = shown.findIndex(({ card }) => card.contains(document.activeElement));
    const next = shown[now < 0 ? (by > 0 ? 0 : shown.length - 1) : now + by];
    if (!next) return;
    next.card.focus({ preventScroll: true });
    scrollTo(next.card, "start");
  };
  const focusBox = ({ node }) => {
    const card = node.closest(".card");
    const layers = [...card.querySelectorAll(".layer")];
    const reading = card.querySelectorAll(".reading")[layers.indexOf(node.closest(".layer"))];
    // A box in a hidden layer cannot have the focus.
    if (reading) choose(reading);
    node.focus({ preventScroll: true });
    scrollTo(card, "nearest");
  };
  // The next or previous box, if need be in another picture.
  const stepBox = (by) => {
    const shown = shownEntries();
    let at = shown.findIndex(({ card }) => card.contains(document.activeElement));
    const now = focused(".box, li[data-b], mark");
    const visible = (entry) => boxesOf(entry).filter((box) => !box.isOut);
    let boxes = at < 0 ? [] : visible(shown[at]);
    let place = now ? boxes.findIndex(({ id, entity }) => id === now.dataset.b || (!now.dataset.b && entity === now.dataset.e)) : -1;
    place = place < 0 ? (by > 0 ? 0 : boxes.length - 1) : place + by;
    if (at < 0) at = by > 0 ? -1 : shown.length;
    while (!boxes[place]) {
      at += by;
      if (!shown[at]) return;
      boxes = visible(shown[at]);
      place = by > 0 ? 0 : boxes.length - 1;
    }
    focusBox(boxes[place]);
  };
  const markBox = (verdict) => {
    if (!marks) return false;
    const part = focused(".box, li[data-b]");
    if (!part) {
      // The first press shows which box the next one marks.
      if (verdict) stepBox(1);
      return Boolean(verdict);
    }
    marks.mark(part, verdict);
    if (verdict) stepBox(1);
    return true;
  };

  const help = byId("help");
  if (help) {
    const button = byId("keys");
    if (button) button.addEventListener("click", () => help.showModal());
    byId("close").addEventListener("click", () => help.close());
  }

  const isTyping = (node) => node instanceof Element && node.matches("input:not([type=checkbox], [type=radio]), select, textarea");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (help && help.open)) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" && event.target.type === "search") {
        event.target.value = "";
        applyFilter();
        event.target.blur();
      }
      return;
    }
    const card = focused(".card");
    if (event.key === "/" && filter) filter.focus();
    else if (event.key === "p" && filter) byId("phrase").focus();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "l") stepBox(1);
    else if (event.key === "h") stepBox(-1);
    else if (event.key === "r" && markBox("right")) event.stopPropagation();
    else if (event.key === "w" && markBox("wrong")) event.stopPropagation();
    else if (event.key === "u" && markBox("")) event.stopPropagation();
    else if (event.key === "e" && card) enlarge(card);
    else if (event.key === "?" && help) help.showModal();
    else return;
    event.preventDefault();
  });
