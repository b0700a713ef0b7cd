"use strict";
// Tables sort and copy, pictures open at full size, links open the panel they point into.
// Without script the page still says everything.

for (const table of document.querySelectorAll("table.data")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = (head.title ? head.title + "; " : "") + "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => (row.cells[column].dataset.v ?? row.cells[column].textContent.trim()).replace(/^nan$/, "");
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // no number: always last
        const order = head.classList.contains("n") ? x - y : x.localeCompare(y, "en", { numeric: true });
        return up ? order : -order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });

  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "copy table";
  copy.addEventListener("click", async () => {
    const text = (cell) => cell.innerText.replace(/\s+/g, " ").trim();
    const lines = [...table.rows].map((row) => [...row.cells].map(text).join("\t"));
    copy.textContent = (await put(lines.join("\n"))) ? "copied" : "could not copy";
    setTimeout(() => (copy.textContent = "copy table"), 1500);
  });
  table.closest(".box").append(copy);
}

async function put(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // where the page has no clipboard right
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const full = document.querySelector("dialog");
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    full.querySelector(".pan").replaceChildren(button.querySelector(".stack").cloneNode(true));
    full.showModal();
  });
}

function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const inside = target.matches("section.group") ? [...target.querySelectorAll(":scope > details")] : [target.closest("details")];
  inside.filter(Boolean).forEach((panel) => (panel.open = true));
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
addEventListener("click", (event) => {
  if (event.target.closest('a[href^="#"]')) setTimeout(reveal); // the same link twice changes no hash
});
reveal();

const opened = [];
addEventListener("beforeprint", () => {
  for (const panel of document.querySelectorAll("details:not([open])")) {
    panel.open = true;
    opened.push(panel);
  }
});
addEventListener("afterprint", () => opened.splice(0).forEach((panel) => (panel.open = false)));
