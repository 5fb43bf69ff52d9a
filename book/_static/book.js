// Small manners: what is linked to is shown, and a link in a title is a link.
(function () {
  "use strict";

  // A target inside a hidden solution or a folded cell is opened before the reader gets there.
  function reveal() {
    let id = window.location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch (error) { /* a malformed hash names nothing */ }
    const target = id && document.getElementById(id);
    if (!target) return;
    let opened = false;
    for (let box = target; box; box = box.parentElement) {
      if (box.tagName === "DETAILS" && !box.open) { box.open = true; opened = true; }
      if (box !== target && box.classList.contains("toggle-hidden")) {
        box.querySelector(".toggle-button").click();
        opened = true;
      }
    }
    if (opened) target.scrollIntoView({ behavior: "instant" });
  }

  // The title of a hidden solution opens it; the link in that title leads to the exercise.
  document.addEventListener("click", (event) => {
    if (event.target.closest(".admonition-title a")) event.stopPropagation();
  }, true);
  window.addEventListener("hashchange", reveal);
  window.addEventListener("load", reveal);

  // The index of tags: rows by kind, part and words; a graph for one chapter at a time.
  function filter(form) {
    const table = form.parentElement.querySelector("table.fn-tag-table");
    const rows = [...table.querySelectorAll("tbody tr")];
    const words = rows.map((row) => row.textContent.toLowerCase()); // before formulas are typeset
    const { kind, part, text } = form.elements;
    function show() {
      const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, i) => {
        const good = (!kind.value || row.classList.contains(kind.value)) &&
          (!part.value || row.classList.contains(part.value)) &&
          wanted.every((word) => words[i].includes(word));
        row.hidden = !good;
        count += good;
      });
      form.querySelector("output").textContent = `${count} of ${rows.length}`;
    }
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    show();
  }

  function choose(form) {
    const boxes = [...form.parentElement.querySelectorAll(".fn-graph-box")];
    const select = form.querySelector("select");
    const show = () => boxes.forEach((box, i) => { box.hidden = i !== Number(select.value); });
    select.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    show();
  }

  // What the result under the pointer rests on, and what rests on it.
  function follow(graph) {
    const edges = [...graph.querySelectorAll(".fn-edge")];
    const nodes = [...graph.querySelectorAll(".fn-node")];
    const clear = () => {
      graph.classList.remove("chosen");
      [...edges, ...nodes].forEach((part) => part.classList.remove("above", "below", "self"));
    };
    function reach(start, from, to, name) {
      const seen = new Set([start]);
      for (const node of seen) { // a set may grow while it is walked
        edges.forEach((edge) => {
          if (edge.dataset[from] !== node) return;
          edge.classList.add(name);
          seen.add(edge.dataset[to]);
        });
      }
      seen.delete(start);
      nodes.forEach((node) => { if (seen.has(node.dataset.node)) node.classList.add(name); });
    }
    const pick = (node) => {
      clear();
      graph.classList.add("chosen");
      node.classList.add("self");
      reach(node.dataset.node, "from", "to", "below");
      reach(node.dataset.node, "to", "from", "above");
    };
    for (const node of nodes) {
      node.addEventListener("pointerenter", () => pick(node));
      node.addEventListener("focus", () => pick(node));
      node.addEventListener("pointerleave", clear);
      node.addEventListener("blur", clear);
    }
  }
  document.querySelectorAll("form.fn-filter").forEach(filter);
  document.querySelectorAll("form.fn-choose").forEach(choose);
  document.querySelectorAll("svg.fn-graph").forEach(follow);
})();
