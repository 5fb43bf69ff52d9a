// When formulas are typeset.
//
// MathJax on a whole chapter takes seconds; a reader sees one screen.  So: what is on the screen
// first, with the text hidden until then (it takes a few tenths of a second, and nothing jumps);
// the rest in idle time, what lies below before what lies above, and while something above grows
// or shrinks the page is held where the reader is.  A jump and a print find everything typeset:
// a jump typesets around its target first, a print typesets all that is left.
(function () {
  "use strict";
  const root = document.documentElement;
  const SLICE = 50; // milliseconds of typesetting between two frames
  let items = []; // {element, tex, display, box, done}, in the order of the page
  let left = 0;
  let started = false;
  let finished = null;
  const whenDone = new Promise((resolve) => { finished = resolve; });

  window.MathJax = window.MathJax || {};
  const startup = (window.MathJax.startup = window.MathJax.startup || {});
  startup.typeset = false;
  startup.ready = function () {
    window.MathJax.startup.defaultReady();
    start();
  };

  // For tests and for printing: a promise that is kept when nothing is left.
  window.fnTypesetAll = function () {
    if (!document.querySelector("span.math, div.math")) return Promise.resolve();
    if (started) {
      items.forEach(typeset);
      flush();
    }
    return whenDone;
  };

  function collect() {
    for (const element of document.querySelectorAll("span.math, div.math")) {
      const text = [...element.childNodes].find((n) => n.nodeType === 3 && /\\[([]/.test(n.data));
      if (!text) continue;
      const match = text.data.match(/\\([([])([\s\S]*)\\[)\]]/);
      if (!match) continue;
      items.push({ element, text, tex: match[2], display: match[1] === "[", done: false });
    }
    left = items.length;
  }

  function put(item, node) {
    if (item.display) {
      const box = document.createElement("div");
      box.className = "fn-display";
      box.append(node);
      node = box;
    }
    else if (item.tex.length > 24) breakable(node);
    item.text.replaceWith(node);
    item.element.classList.add("typeset");
    if (!item.display) hold(item.element);
    left -= 1;
  }

  // Let a long formula in a line of text break after relations, signs and commas, which TeX does
  // and MathJax 3 does not.  MathJax marks the space around them with an attribute.
  function breakable(node) {
    const maths = node.querySelector("mjx-math");
    const row = maths.children.length === 1 && maths.firstElementChild.matches("mjx-mrow")
      ? maths.firstElementChild : maths;
    const parts = [...row.children];
    parts.forEach((part, i) => {
      if (i === 0 || !part.hasAttribute("space") || !parts[i - 1].matches("mjx-mo")) return;
      const place = document.createElement("mjx-break");
      place.setAttribute("space", part.getAttribute("space")); // stays at the end of the line
      part.removeAttribute("space");
      part.before(place);
    });
    node.classList.add("fn-breaks");
  }

  // A full stop does not begin a line, nor does a bracket end one.
  function hold(element) {
    const after = element.nextSibling;
    const before = element.previousSibling;
    const stop = after && after.nodeType === 3 && after.data.match(/^[.,;:!?)\]\u2019\u201d]+/);
    const open = before && before.nodeType === 3 && before.data.match(/[([\u2018\u201c]+$/);
    if (!stop && !open) return;
    const span = document.createElement("span");
    span.className = "fn-hold";
    element.replaceWith(span);
    if (open) {
      before.data = before.data.slice(0, -open[0].length);
      span.append(open[0]);
    }
    span.append(element);
    if (stop) {
      after.data = after.data.slice(stop[0].length);
      span.append(stop[0]);
    }
  }

  function typeset(item) {
    if (item.done) return;
    item.done = true;
    const options = { display: item.display };
    try {
      put(item, window.MathJax.tex2chtml(item.tex, options));
    } catch (error) {
      if (!error.retry) throw error; // an extension is being loaded
      window.MathJax.tex2chtmlPromise(item.tex, options).then((node) => {
        put(item, node);
        flush();
      });
    }
  }

  // Put the rules that new characters need into the page.
  function flush() {
    window.MathJax.startup.document.clear();
    window.MathJax.startup.document.updateDocument();
    if (left === 0) finished();
  }

  function near(item, margin) {
    const box = item.element.getBoundingClientRect();
    return box.bottom >= -margin && box.top <= window.innerHeight + margin;
  }

  // Typeset what is on the screen; what becomes shorter brings more onto it.
  function screen(margin) {
    for (let round = 0; round < 4; round += 1) {
      const seen = items.filter((item) => !item.done && near(item, margin));
      if (seen.length === 0) break;
      seen.forEach(typeset);
      flush();
    }
  }

  function target() {
    let id = window.location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch (error) { /* a malformed hash names nothing */ }
    return id ? document.getElementById(id) : null;
  }

  // Who came for a place stays there until they move on their own: whatever changes the height
  // of the page (formulas, faces of type that come late), the target keeps its distance from the
  // top of the window.
  let aim = null;
  let place = 0;
  function stay() {
    if (!aim) return;
    for (let round = 0; round < 4; round += 1) {
      const moved = aim.getBoundingClientRect().top - place;
      if (Math.abs(moved) < 0.5) break;
      window.scrollBy({ top: moved, behavior: "instant" });
      screen(0);
    }
  }
  function release() { aim = null; }

  // Something that the reader sees and that should stay where it is.
  function held() {
    for (const y of [80, 160, 240, 320]) {
      const found = document.elementFromPoint(window.innerWidth / 2, y);
      const block = found && found.closest("p, li, h1, h2, h3, div.math, pre, tr, img, svg");
      if (block && block.closest("article")) return block;
    }
    return null;
  }

  // Hold the page while `change` is made.  As long as the reader does not scroll, it is held to
  // the same place, or the roundings of many corrections would add up.
  let anchor = { block: null, top: 0, scroll: -1 };
  function keep(change) {
    if (aim) {
      change();
      stay();
      return;
    }
    if (!anchor.block || anchor.scroll !== window.scrollY) {
      const block = held();
      anchor = { block, top: block ? block.getBoundingClientRect().top : 0, scroll: 0 };
    }
    change();
    if (anchor.block) {
      const moved = anchor.block.getBoundingClientRect().top - anchor.top;
      if (Math.abs(moved) >= 0.5) window.scrollBy({ top: moved, behavior: "instant" });
    }
    anchor.scroll = window.scrollY;
  }

  // What waits, nearest first: what lies below in order, then what lies above, upwards.  Asking
  // where things are costs a layout of the page, so it is asked again only after a scroll.
  let order = null;
  let above = 0; // from here on in `order`, items lie above the screen
  function sort() {
    const waiting = items.filter((item) => !item.done);
    let cut = waiting.findIndex((item) => item.element.getBoundingClientRect().bottom >= 0);
    if (cut < 0) cut = waiting.length;
    above = waiting.length - cut;
    order = waiting.slice(cut).concat(waiting.slice(0, cut).reverse());
  }

  function idle() {
    if (left === 0) { root.classList.remove("fn-anchoring"); return; }
    if (!order) sort();
    const stop = order.length > above ? above : 0; // a slice lies below the screen, or above it
    const work = () => {
      const end = performance.now() + SLICE;
      while (order.length > stop && performance.now() < end) typeset(order.shift());
      flush();
    };
    if (stop && !aim) work(); else keep(work);
    if (order.length) next();
    else setTimeout(() => { order = null; idle(); }, 50); // for an extension to load
  }

  function next() {
    if (window.requestIdleCallback) window.requestIdleCallback(idle, { timeout: 60 });
    else setTimeout(idle, 30);
  }

  function go() {
    aim = target();
    if (!aim) return;
    aim.scrollIntoView({ behavior: "instant" });
    screen(window.innerHeight / 2);
    aim.scrollIntoView({ behavior: "instant" });
    place = aim.getBoundingClientRect().top;
    anchor.scroll = window.scrollY;
  }

  function start() {
    root.classList.add("fn-anchoring"); // we hold the page, not the browser
    collect();
    started = true;
    screen(0);
    // A text set in another face has other lines.  The faces are asked for early, so they are there
    // or near.
    void root.offsetHeight; // a face is missed only when something is laid out in it
    if (document.fonts.status === "loaded") { unveil(); return; }
    const soon = new Promise((resolve) => { setTimeout(resolve, 300); });
    Promise.race([document.fonts.ready, soon]).then(unveil);
  }

  function unveil() {
    screen(0);
    go();
    root.classList.remove("fn-wait");
    window.performance.mark("fn-first-screen");
    window.addEventListener("hashchange", go);
    window.addEventListener("scroll", () => {
      if (aim || left === 0 || window.scrollY === anchor.scroll) return; // held, done, moved by us
      keep(() => screen(200));
      order = null;
    }, { passive: true });
    window.addEventListener("beforeprint", window.fnTypesetAll);
    for (const own of ["wheel", "touchmove", "keydown", "pointerdown"]) {
      window.addEventListener(own, release, { passive: true });
    }
    new ResizeObserver(stay).observe(document.querySelector("article"));
    if (left === 0) finished();
    theme();
    next();
  }

  // The theme's scripts (menus, the button of the themes) come when there is something to see.
  function theme() {
    document.querySelectorAll('script[type="text/later"]').forEach((later) => {
      const script = document.createElement("script");
      script.async = false; // in order
      script.src = later.getAttribute("src");
      later.replaceWith(script);
    });
  }

  // The faces of formulas are fetched while the page is still being read.
  const base = document.currentScript.src.replace(/[^/]*$/, "");
  if (root.classList.contains("fn-wait")) {
    for (const face of ["AMS-Regular", "Calligraphic-Regular", "Size1-Regular", "Size2-Regular",
      "Size3-Regular", "Size4-Regular"]) {
      const path = "mathjax/output/chtml/fonts/woff-v2/MathJax_" + face + ".woff";
      new FontFace("early", `url("${base}${path}")`).load().catch(() => {});
    }
  }
  window.addEventListener("load", () => { setTimeout(theme, 1500); }); // if MathJax does not come
})();
