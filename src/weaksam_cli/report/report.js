(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  // theme: the system's, or the reader's choice, which stays where storage is allowed
  const theme = one("#theme");
  const remembered = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("weaksam-theme");
      localStorage.setItem("weaksam-theme", value);
    } catch { /* pages from files may have no storage */ }
    return value;
  };
  const dress = (value) => {
    if (value === "light" || value === "dark") document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    theme.value = document.documentElement.dataset.theme || "auto";
  };
  dress(remembered());
  theme.addEventListener("change", () => dress(remembered(theme.value)));

  // filters: by class and split
  const ofClass = one("#class"), ofSplit = one("#split"), said = one("#said");
  const filter = () => {
    let count = 0;
    const cards = all(".card");
    for (const card of cards) {
      const fits = (!ofClass.value || card.dataset.classes.split(" ").includes(ofClass.value))
        && (!ofSplit.value || card.dataset.split === ofSplit.value);
      card.hidden = !fits;
      count += fits;
    }
    for (const section of all(".cards")) section.hidden = !all(".card:not([hidden])", section).length;
    said.textContent = count === cards.length ? "" : `${count} of ${cards.length} shown`;
  };
  if (ofClass) {
    ofClass.addEventListener("change", filter);
    ofSplit.addEventListener("change", filter);
    for (const link of all("[data-pick]")) link.addEventListener("click", () => {
      ofClass.value = link.dataset.pick;
      filter();
      one("#images").scrollIntoView();
    });
  }

  // how many boxes
  const most = one("#most"), number = one("#number");
  const admit = () => {
    number.textContent = Number(most.value).toFixed(1);
    for (const box of all("[data-rank]")) box.classList.toggle("off", Number(box.dataset.rank) >= Number(most.value));
  };
  if (most) most.addEventListener("input", admit);

  // a panel, larger
  const dialog = one("#large"), stage = one("#large-panel"), caption = one("#large-caption");
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".zoom");
    if (!button || !dialog) return;
    stage.replaceChildren(button.querySelector("svg").cloneNode(true));
    caption.textContent = `${button.closest(".card").dataset.key}: ${button.nextElementSibling.textContent}`;
    dialog.showModal();
  });
  if (dialog) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // tables sorted by a click on their heads
  for (const head of all("table.sorted th button")) head.addEventListener("click", () => {
    const cell = head.closest("th"), body = cell.closest("table").tBodies[0];
    const column = [...cell.parentNode.children].indexOf(cell);
    const falling = cell.getAttribute("aria-sort") !== "descending";
    const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)], difference = Number(x) - Number(y);
      return Number.isNaN(difference) ? x.localeCompare(y) : difference;
    });
    for (const other of cell.parentNode.children) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.replaceChildren(...(falling ? rows.reverse() : rows));
  });
})();
